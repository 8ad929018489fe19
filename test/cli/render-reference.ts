/** Makes docs/reference/cli.md from the command tree. `npm run render` writes it. */
import { PassThrough } from 'node:stream'
import { join } from 'node:path'
import type { Command } from 'commander'

import { buildProgram } from '../../src/cli/program.ts'
import { environmentName, SETTING_PATHS, SETTINGS, VARIABLES } from '../../src/server/settings.ts'
import { runCommand } from './run-command.ts'

export const REFERENCE_PAGE = join(import.meta.dirname, '../../docs/reference/cli.md')

const HEAD = `# The command line

\`commonpage COMMAND …\`; from a checkout, \`./commonpage COMMAND …\`. Every command but \`serve\`, \`demo\`, \`doctor\`,
\`config\` and \`completion\` talks to a server over its HTTP API.

This page is written by \`npm run render\` from the command tree.

## Rules

- **Server**: \`--server URL\`, else \`COMMONPAGE_SERVER\`, else \`http://127.0.0.1:8080\`.
- **References**: \`DOMAIN/NAME[:TAG|@sha256:HEX]\`, in lower case. No tag means \`latest\`; a domain is never guessed.
- **Paths inside images** are bytes. Write them in UTF-8; bytes that are not UTF-8 as \`%HH\`, and \`%\` itself as
  \`%25\`. Names are shown with control characters escaped as \`\\xHH\`.
- **Output**: results on stdout, everything else on stderr. \`--json\` prints the API's own JSON: sizes are integers in
  bytes, times RFC 3339 in UTC, digests whole. \`--watch --json\` prints one line for each table.
- **Sizes** are shown in IEC units and accepted as \`64KiB\`, \`1.5GiB\` or a number of bytes; times as \`250ms\`, \`30s\`, \`5m\`.
- **Colour** goes to terminals only; \`--no-color\`, \`NO_COLOR\` and \`FORCE_COLOR\` decide otherwise.
- **Settings of \`serve\`**: flag, else environment (\`COMMONPAGE_CACHE__SIZE\` is \`cache.size\`), else the file of
  \`--config\`, else the default. \`commonpage config print --origin\` shows which it was.
- **Errors** look like this, and with \`--json\` are one JSON object on stderr. [errors.md](errors.md) lists the codes.

  \`\`\`text
  error[ERR_IMAGE_NOT_FOUND]: no image named 'demo/bsae:1'
  hint: closest: demo/base:1 (commonpage image ls)
  \`\`\`

| exit code | meaning |
| --------- | ------- |
| 0 | ok, also when the reader of a pipe left early |
| 1 | failure |
| 2 | usage or configuration |
| 3 | not found |
| 4 | refused, or a conflict |
| 5 | server unreachable |
| 6 | verification failed: bytes do not have the digest that they should have |
| 130, 143 | stopped by SIGINT, SIGTERM |

Options of every command:

`

const ENVIRONMENT = `## Environment

Names that begin with \`COMMONPAGE_\` and are not known are refused by \`serve\`, with the nearest one that is; those that
Kubernetes sets for a service of that name are passed over.

| variable | meaning |
| -------- | ------- |
`

const SETTINGS_HEAD = `
Each setting of \`serve\` has a key in the file, a variable and a flag:

| key | variable | flag |
| --- | -------- | ---- |
`

function renderEnvironment(): string {
  const variables = Object.entries(VARIABLES).map(([name, doc]) => `| \`${name}\` | ${doc} |\n`)
  const settings = SETTING_PATHS.map((path) => {
    const { flag, default: fallback } = SETTINGS[path]
    const typed = fallback === true ? `--no-${flag}` : `--${flag}`
    return `| \`${path}\` | \`${environmentName(path)}\` | \`${typed}\` |\n`
  })
  return ENVIRONMENT + variables.join('') + SETTINGS_HEAD + settings.join('')
}

/** Every command that does something, in the order of the help. */
export function commandNames(): string[] {
  const sink = new PassThrough()
  const context = {
    stdin: sink,
    stdout: sink,
    stderr: sink,
    env: {},
    signal: new AbortController().signal,
  }
  return leaves(buildProgram({ context, version: '0', fullHelp: false }), [])
}

function leaves(command: Command, path: readonly string[]): string[] {
  if (command.commands.length === 0) return [path.join(' ')]
  return command.commands.flatMap((child) => leaves(child, [...path, child.name()]))
}

export async function renderReference(): Promise<string> {
  let globals = ''
  const sections: string[] = []
  for (const name of commandNames()) {
    const { stdout } = await runCommand([...name.split(' '), '-h'])
    const [own = '', shared = ''] = stdout.split('\nGlobal Options:\n')
    globals = shared
    sections.push(`## commonpage ${name}\n\n\`\`\`text\n${own.trimEnd()}\n\`\`\`\n`)
  }
  return `${HEAD}\`\`\`text\n${globals.trimEnd()}\n\`\`\`\n\n${sections.join('\n')}\n${renderEnvironment()}`
}
