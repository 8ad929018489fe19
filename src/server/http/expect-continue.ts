/**
 * `Expect: 100-continue` (RFC 9110 §10.1.1): the go-ahead is given by the code that reads a body, after it
 * has decided to, and not by node on its own.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'

const awaiting = new WeakSet<IncomingMessage>()

/** Marks a request as one whose client waits for the go-ahead. */
export function expectContinue(request: IncomingMessage): void {
  awaiting.add(request)
}

export function awaitsContinue(request: IncomingMessage): boolean {
  return awaiting.has(request)
}

/** Tells the client to send the body, if it waits for that. */
export function sendContinue(request: IncomingMessage, response: ServerResponse): void {
  if (awaiting.delete(request)) response.writeContinue()
}
