/**
 * The timeout after which a connection on which nothing moves is closed, and when it does not count: while the
 * server itself is at work and the client can only wait. It knows neither the work nor its deadline.
 */
import type { Socket } from 'node:net'

/**
 * Runs `work` without the connection's timeout, which counts again from its end: the answer has to be taken in
 * time. `work` needs an end of its own.
 */
export async function withoutIdleTimeout<T>(socket: Socket, work: () => Promise<T>): Promise<T> {
  const { timeout = 0 } = socket
  socket.setTimeout(0)
  try {
    return await work()
  } finally {
    socket.setTimeout(timeout)
  }
}
