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
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE') root.abort(Interruption.byReader())
      else root.abort(error)
    })
  }
  process.exitCode = await runCli(args, {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    env: process.env,
    signal: root.signal,
  })
}
