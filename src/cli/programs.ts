/** Other programs: where they are and running them to their end. */
import { execFile } from 'node:child_process'
import { constants } from 'node:fs'
import { access } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'

const execute = promisify(execFile)

/** Where system tools are even when a user's PATH does not say so. */
const SYSTEM_FOLDERS = ['/usr/sbin', '/sbin', '/usr/local/sbin']
const MAX_OUTPUT_BYTES = 16 * 1024 * 1024

export async function findProgram(
  name: string,
  env: Readonly<Record<string, string | undefined>>,
): Promise<string | undefined> {
  const folders = [...(env['PATH'] ?? '').split(delimiter), ...SYSTEM_FOLDERS]
  for (const folder of folders.filter((entry) => entry !== '')) {
    const path = join(folder, name)
    try {
      await access(path, constants.X_OK)
      return path
    } catch {
      // the next folder
    }
  }
  return undefined
}

interface RunOptions {
  readonly signal: AbortSignal
  readonly timeoutMs: number
  readonly env?: Readonly<Record<string, string | undefined>>
}

/** What it writes to standard output. Rejects when the program fails, is stopped by the signal, or does not end in time. */
export async function outputOfProgram(
  path: string,
  args: readonly string[],
  options: RunOptions,
): Promise<string> {
  const { stdout } = await execute(path, args, {
    signal: options.signal,
    timeout: options.timeoutMs,
    maxBuffer: MAX_OUTPUT_BYTES,
    ...(options.env === undefined ? {} : { env: options.env }),
  })
  return stdout
}
