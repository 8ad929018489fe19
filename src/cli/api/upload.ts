/**
 * Sends bytes as the body of a POST. The server is asked first (`Expect: 100-continue`), so that a
 * full disk or a wrong reference costs no transfer; an answer that comes early stops the transfer.
 */
import type { ClientRequest, IncomingMessage } from 'node:http'

import { AppError } from '../../core/index.ts'
import type { BodySource } from './body-source.ts'
import type { ApiClient } from './client.ts'

/** RFC 9110, 10.1.1: a client must not wait for 100 forever; servers before a proxy may never send it. */
const CONTINUE_TIMEOUT_MS = 2000
/** After the body is sent, the server hashes and syncs what it staged. */
const PUBLISH_TIMEOUT_MS = 10 * 60_000

/**
 * POSTs the bytes and gives the JSON answer.
 * @throws what ApiClient throws, and what the source fails with: the server then has nothing
 */
export async function uploadBody<T>(
  client: ApiClient,
  path: string,
  source: BodySource,
  onSent: (bytes: number) => void,
): Promise<T> {
  const request = client.start(path, {
    method: 'POST',
    headers: {
      'content-type': 'application/octet-stream',
      ...(source.sizeBytes === undefined ? {} : { 'content-length': source.sizeBytes }),
      expect: '100-continue',
    },
  })
  const answered = answerOf(request, client)
  try {
    await mayContinue(request, answered)
    const outcome = await Promise.race([
      answered.then((response) => ({ response })),
      sendBody(request, source, onSent, client.signal),
    ])
    // an answer before the end of the body is a refusal; the rest of the body stays here
    const response = outcome?.response ?? (await answered)
    await client.refuseProblem(response)
    const body = (await client.readBody(response)).toString('utf8')
    return JSON.parse(body) as T
  } catch (error) {
    if (error instanceof SyntaxError) {
      throw new AppError('ERR_CLI_BAD_RESPONSE', `${client.urlOf(path)} did not answer with JSON`)
    }
    throw error
  } finally {
    if (!request.writableFinished) request.destroy()
  }
}

function answerOf(request: ClientRequest, client: ApiClient): Promise<IncomingMessage> {
  const answered = new Promise<IncomingMessage>((resolve, reject) => {
    request.once('response', resolve)
    request.on('error', (error) => reject(client.connectionError(error)))
    request.setTimeout(PUBLISH_TIMEOUT_MS, () => {
      request.destroy(new Error('the transfer made no progress'))
    })
  })
  // the body may fail first; the rejection is then looked at nowhere else
  answered.catch(() => undefined)
  return answered
}

/** Resolves when the body may be sent: the server said so, or said nothing for a while, or answered. */
async function mayContinue(
  request: ClientRequest,
  answered: Promise<IncomingMessage>,
): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<undefined>()
  request.once('continue', () => resolve(undefined))
  request.flushHeaders()
  request.once('socket', (socket) => {
    const arm = (): void => {
      setTimeout(() => resolve(undefined), CONTINUE_TIMEOUT_MS).unref()
    }
    if (socket.connecting) socket.once('connect', arm)
    else arm()
  })
  await Promise.race([promise, answered])
}

/** Resolves with nothing when the whole body is handed over, or when the connection is gone. */
async function sendBody(
  request: ClientRequest,
  source: BodySource,
  onSent: (bytes: number) => void,
  signal: AbortSignal,
): Promise<undefined> {
  let sent = 0
  for await (const piece of source.pieces()) {
    signal.throwIfAborted()
    if (request.destroyed || request.writableEnded) return undefined
    // each piece is handed to the socket, which keeps it until it is written
    if (!request.write(piece)) await drained(request)
    sent += piece.length
    onSent(sent)
  }
  request.end()
  return undefined
}

function drained(request: ClientRequest): Promise<void> {
  return new Promise((resolve) => {
    const settle = (): void => {
      request.off('drain', settle)
      request.off('close', settle)
      request.off('response', settle)
      resolve()
    }
    request.once('drain', settle)
    request.once('close', settle)
    request.once('response', settle)
  })
}
