/**
 * Makes docs/reference/errors.md from the tables in which the modules register their error codes.
 * `npm run render` writes it.
 */
import { globSync } from 'node:fs'
import { join } from 'node:path'

import { errorDefinitions } from '../src/core/index.ts'
import type { ErrorDefinition } from '../src/core/index.ts'
import { ROOT } from './steps.ts'

export const ERRORS_PAGE = join(ROOT, 'docs/reference/errors.md')

const HEAD = `# Errors

Every error has a code that does not change between releases; scripts should look at the code and never at the
text. Over HTTP it is the field \`code\` of a problem document (RFC 9457) with the status below; over NBD the
client sees the errno; the \`commonpage\` command prints \`error[CODE]\` and ends with the exit code.
A dash means that the error does not leave the server that way.

This page is written by \`npm run render\` from the tables in the source.
`

const NBD_HEAD = `
## The NBD library

\`nbd-server-ts\` knows nothing of HTTP or exit codes. It reports these to the program that uses it, as
\`NbdError.code\`, and the server logs them with the connection.

| code | when |
| --- | --- |
`

/** @throws whatever importing a module's errors.ts throws. */
export async function renderErrors(): Promise<string> {
  for (const file of globSync('src/**/errors.ts', { cwd: ROOT }).toSorted()) {
    await import(join(ROOT, file))
  }
  const sections = Map.groupBy(errorDefinitions(), ([code]) => code.split('_')[1] ?? '')
  const registered = [...sections]
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([, rows]) => rows.map(row).join(''))
  const { NBD_ERRORS } = await import('nbd-server-ts')
  const library = Object.entries(NBD_ERRORS).map(
    ([code, doc]) => `| <a id="${code.toLowerCase()}"></a>\`${code}\` | ${doc} |\n`,
  )
  return (
    `${HEAD}\n| code | HTTP | NBD | exit | when, and what to do |\n| --- | --- | --- | --- | --- |\n` +
    registered.join('') +
    NBD_HEAD +
    library.join('')
  )
}

function row([code, { http, nbd, exit, doc }]: [string, ErrorDefinition]): string {
  const anchor = `<a id="${code.toLowerCase()}"></a>`
  return `| ${anchor}\`${code}\` | ${http ?? '–'} | ${nbd ?? '–'} | ${exit ?? '–'} | ${doc} |\n`
}
