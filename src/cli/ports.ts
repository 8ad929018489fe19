/** Whether this machine lets us listen on an address now. */
import { createServer } from 'node:net'

import type { ListenAddress } from '../server/config.ts'

/** Binds and lets go. @returns the errno name of the refusal, undefined when the address is free */
export function listenRefusal(address: ListenAddress): Promise<string | undefined> {
  return new Promise((resolve) => {
    const server = createServer()
    server.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message))
    server.listen({ ...address, exclusive: true }, () => server.close(() => resolve(undefined)))
  })
}
