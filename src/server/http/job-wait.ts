/** Long polls: `?wait=` as a bounded time, and waiting for a job while the client is there. */
import type { FastifyReply } from 'fastify'

import { parseDuration } from '../../core/index.ts'
import { HttpConnection } from './connection.ts'
import type { HttpContext } from './context.ts'
import { withoutIdleTimeout } from './idle-timeout.ts'
import { MAX_WAIT_MS } from './limits.ts'
import type { Job } from './schemas.ts'

/** One question to the control plane: short enough to notice a client that has gone. */
const WAIT_STEP_MS = 10_000

/** ms of `?wait=`: a duration or `true`, cut at MAX_WAIT_MS; 0 without it. @throws ERR_INVALID_ARGUMENT */
export function parseWait(text: string | undefined): number {
  if (text === undefined || text === 'false') return 0
  if (text === 'true' || text === '') return MAX_WAIT_MS
  return Math.min(parseDuration(text), MAX_WAIT_MS)
}

/** The job when it has ended, or as it is when the time is over or the client has gone. */
export async function waitForJob(
  context: HttpContext,
  reply: FastifyReply,
  job: Job,
  waitMs: number,
): Promise<Job> {
  if (hasEnded(job)) return job
  const { socket } = reply.request.raw
  const connection = HttpConnection.of(socket)
  const deadline = performance.now() + waitMs
  return withoutIdleTimeout(socket, async () => {
    let current = job
    for (;;) {
      const leftMs = deadline - performance.now()
      if (hasEnded(current) || leftMs <= 0 || connection.closed) return current
      current = await context.control.job(job.id, { waitMs: Math.min(leftMs, WAIT_STEP_MS) })
    }
  })
}

export function hasEnded(job: Job): boolean {
  return job.state === 'done' || job.state === 'failed' || job.state === 'cancelled'
}
