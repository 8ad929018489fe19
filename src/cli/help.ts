/** Pieces of help that several commands share. */
import { Option } from 'commander'

export function jsonOption(): Option {
  return new Option('--json', 'print JSON instead of text')
}

/** Lines that stand above the usage, so that `-h` starts with something to copy. */
export function examples(...lines: readonly string[]): string {
  return `${lines.map((line) => `  ${line}`).join('\n')}\n`
}
