/** `health`: the readiness of a server as an exit code, for container health checks and scripts. */
import { AppError } from '../../core/index.ts'
import type { Invocation } from '../invocation.ts'

/** A health check that waits longer than its caller is no check. */
const ANSWER_TIMEOUT_MS = 5000

interface Check {
  readonly name: string
  readonly ok: boolean
  readonly reason?: string
}

export async function runHealth(invocation: Invocation): Promise<void> {
  const { client, output } = invocation
  const { status, body } = await client.exchange('/readyz', {
    accept: [503],
    answerTimeoutMs: ANSWER_TIMEOUT_MS,
  })
  const ready = status === 200
  const checks = checksOf(body)
  if (invocation.json) {
    await output.printJson({ ready, server: client.address.url, checks })
  } else if (ready) {
    await output.print(`ready: ${client.address.url}`)
  }
  if (ready) return
  const failed = checks
    .filter((check) => !check.ok)
    .map(({ name, reason }) => (reason === undefined ? name : `${name} (${reason})`))
  const why = failed.length === 0 ? '' : `: ${failed.join(', ')}`
  throw new AppError('ERR_CLI_NOT_READY', `${client.address.url} is not ready${why}`)
}

function checksOf(body: unknown): Check[] {
  const list = typeof body === 'object' && body !== null && 'checks' in body ? body.checks : body
  if (!Array.isArray(list)) return []
  return list
    .filter(isCheck)
    .map(({ name, ok, reason }) => ({ name, ok, ...(reason === undefined ? {} : { reason }) }))
}

function isCheck(value: unknown): value is Check {
  return typeof value === 'object' && value !== null && 'name' in value && 'ok' in value
}
