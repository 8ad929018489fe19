/**
 * Reads the JSON bodies of requests: small and in bounded time, so that a slow one is answered and not cut
 * off. The bodies of uploads are not read here.
 */
import type { IncomingMessage } from 'node:http'

import { AppError } from '../../core/index.ts'
import type { App } from './context.ts'
import { MAX_JSON_BODY_BYTES } from './limits.ts'

/** Bodies that are sent are some hundred bytes long; the buffer of a longer one doubles. */
const FIRST_BODY_BYTES = 1_024

/** Makes the scope of `app` read `application/json`. Errors: ERR_HTTP_BODY_TOO_LARGE, ERR_HTTP_BODY_TIMEOUT */
export function registerJsonBodies(app: App, timeoutMs: number): void {
  const parse = app.getDefaultJsonParser('error', 'error')
  app.removeContentTypeParser('application/json')
  app.addContentTypeParser('application/json', (request, payload: IncomingMessage, done) => {
    readText(payload, timeoutMs, (error, text) => {
      if (error === undefined) void parse(request, text, done)
      else done(error)
    })
  })
}

/** Calls `done` once, with the whole body as text or with what became of it. */
function readText(
  request: IncomingMessage,
  timeoutMs: number,
  done: (error: AppError | undefined, text: string) => void,
): void {
  // Copied into one place: a chunk of one byte on the wire is an object of some 200 bytes here.
  let bytes = Buffer.allocUnsafeSlow(FIRST_BODY_BYTES) // only what was written of it is read
  let size = 0
  let settled = false
  const settle = (error?: AppError): void => {
    if (settled) return
    settled = true
    clearTimeout(timer)
    request.off('data', onData)
    done(error, error === undefined ? bytes.toString('utf8', 0, size) : '')
  }
  const onData = (chunk: Buffer): void => {
    const before = size
    size += chunk.length
    if (size > MAX_JSON_BODY_BYTES) return settle(tooLarge())
    if (size > bytes.length) bytes = grown(bytes, before, size)
    chunk.copy(bytes, before)
  }
  const onGone = (): void => settle(gone(size))
  const timer = setTimeout(() => settle(tooSlow(size, timeoutMs)), timeoutMs)
  request.once('end', () => settle())
  request.once('close', onGone)
  request.once('error', onGone)
  if (Number(request.headers['content-length'] ?? 0) > MAX_JSON_BODY_BYTES) settle(tooLarge())
  else if (request.destroyed) onGone()
  else request.on('data', onData)
}

/** A buffer of at least `needed` bytes that starts with the first `used` of `bytes`. */
function grown(bytes: Buffer, used: number, needed: number): Buffer<ArrayBuffer> {
  const larger = Buffer.allocUnsafeSlow(Math.max(needed, 2 * bytes.length)) // as `bytes` itself
  bytes.copy(larger, 0, 0, used)
  return larger
}

function tooLarge(): AppError {
  return new AppError(
    'ERR_HTTP_BODY_TOO_LARGE',
    `the body is larger than ${MAX_JSON_BODY_BYTES} bytes`,
  )
}

function tooSlow(bytes: number, timeoutMs: number): AppError {
  return new AppError(
    'ERR_HTTP_BODY_TIMEOUT',
    `only ${bytes} bytes of the body came in ${timeoutMs} ms`,
  )
}

function gone(bytes: number): AppError {
  return new AppError(
    'ERR_HTTP_UPLOAD_ABORTED',
    `the connection ended after ${bytes} bytes of the body`,
  )
}
