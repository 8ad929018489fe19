/**
 * Entry of the `commonpage` command: the real streams, signals, pipes and the exit code of the process.
 */
import { readVersion } from './version.ts'

const args = process.argv.slice(2)
if (args.length === 1 && (args[0] === '--version' || args[0] === '-V')) {
  process.stdout.write(`${readVersion()}\n`)
} else {
  await main()
}

/** The real process: Ctrl-C and SIGTERM end the command in order, a second one at once. */
async function main(): Promise<void> {
  const { Interruption } = await import('./interruption.ts')
  const { runCli } = await import('./run.ts')
  const root = new AbortController()
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.on(name, () => {
      const interruption = Interruption.bySignal(name)
      if (root.signal.aborted) process.exit(interruption.exitCode)
      root.abort(interruption)
    })
  }
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    root.abort(error.code === 'EPIPE' ? Interruption.byReader() : error)
  })
  // without a reader of stderr there is nobody to tell, and the result still counts
  process.stderr.on('error', () => undefined)
  process.exitCode = await runCli(args, {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    env: process.env,
    signal: root.signal,
  })
}
