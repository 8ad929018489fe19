/**
 * The command line: what a user types and reads. It talks to a server over the HTTP API (only `serve` and
 * `demo` start one) and knows nothing of stores, caches or image formats.
 */
export type { CliContext } from './context.ts'
export { CLI_ERRORS, EXIT } from './errors.ts'
export { runCli } from './run.ts'
export { readVersion } from './version.ts'
