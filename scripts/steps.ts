/**
 * Runs the tools that tasks are made of (formatter, linter, compiler, ...) one after the other, with their
 * output as it comes, and says how to run a failed one alone. It decides nothing about exit codes.
 */
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

export const ROOT = fileURLToPath(new URL('..', import.meta.url))

export interface Step {
  readonly name: string
  readonly command: readonly [string, ...string[]]
}

export interface StepResult {
  readonly name: string
  readonly passed: boolean
  readonly seconds: number
  /** The command line that runs this step alone. */
  readonly rerun: string
}

export const FORMAT: Step = {
  name: 'format',
  command: ['prettier', '--check', '--log-level=warn', '.'],
}
export const LINT: Step = { name: 'lint', command: ['oxlint', '--type-aware'] }
export const TYPES: Step = { name: 'types', command: ['tsc', '-p', 'tsconfig.json'] }
export const UNUSED: Step = { name: 'unused', command: ['knip', '--no-progress'] }

/** Runs every step, also after a failure: one run shows all that is wrong. */
export async function runSteps(steps: readonly Step[]): Promise<StepResult[]> {
  const results: StepResult[] = []
  for (const step of steps) results.push(await runStep(step))
  return results
}

/** @throws Error when the command cannot be started. */
export async function runStep(step: Step): Promise<StepResult> {
  const started = performance.now()
  const [command, ...args] = step.command
  const child = spawn(command, args, { cwd: ROOT, stdio: ['ignore', 'inherit', 'inherit'] })
  const { promise, resolve, reject } = Promise.withResolvers<boolean>()
  child.once('error', reject)
  child.once('close', (code) => {
    resolve(code === 0)
  })
  const passed = await promise
  const seconds = (performance.now() - started) / 1000
  console.log(`${passed ? '✔' : '✖'} ${step.name} (${seconds.toFixed(1)} s)`)
  return { name: step.name, passed, seconds, rerun: `npx ${step.command.join(' ')}` }
}

/** One line for each failed step, with the command that repeats it. */
export function describeFailures(results: readonly StepResult[]): string[] {
  return results
    .filter((result) => !result.passed)
    .map((result) => `✖ ${result.name} failed; to repeat it: ${result.rerun}`)
}
