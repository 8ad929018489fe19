/**
 * The HTTP API as the commands use it: requests with a deadline, problem documents turned into AppErrors,
 * and connection failures that say which URL was tried and where it came from. It knows no command.
 */
import type { ClientRequest, IncomingMessage, OutgoingHttpHeaders } from 'node:http'

import { AppError, formatDuration, formatSize, MIB } from '../../core/index.ts'

const { request: httpRequest } = process.getBuiltinModule('node:http')
const { request: httpsRequest } = process.getBuiltinModule('node:https')

export const DEFAULT_SERVER = 'http://127.0.0.1:8080'
export const SERVER_VARIABLE = 'COMMONPAGE_SERVER'

/** Answers that are no data stream are lists of at most a few thousand rows. */
const MAX_JSON_BYTES = 64 * MIB
/** A server that accepts a connection answers in this time, or is stuck. */
const ANSWER_TIMEOUT_MS = 60_000

export interface ServerAddress {
  readonly url: string
  /** `--server`, `COMMONPAGE_SERVER` or `the default`. */
  readonly origin: string
}

export interface RequestOptions {
  readonly method?: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'DELETE'
  /** Sent as JSON. */
  readonly body?: unknown
  readonly headers?: OutgoingHttpHeaders
  /** How long the server may take before its headers come. */
  readonly answerTimeoutMs?: number
}

/** Which server to talk to: the flag, else the environment, else the default. */
export function chooseServer(
  flag: string | undefined,
  env: Readonly<Record<string, string | undefined>>,
): ServerAddress {
  if (flag !== undefined) return { url: flag, origin: '--server' }
  const variable = env[SERVER_VARIABLE]
  if (variable !== undefined && variable !== '') return { url: variable, origin: SERVER_VARIABLE }
  return { url: DEFAULT_SERVER, origin: 'the default' }
}

export class ApiClient {
  readonly address: ServerAddress
  readonly #base: URL
  readonly #signal: AbortSignal

  /** @throws ERR_CLI_SERVER_URL */
  constructor(address: ServerAddress, signal: AbortSignal) {
    this.address = address
    this.#signal = signal
    const base = URL.parse(address.url)
    if (base === null || (base.protocol !== 'http:' && base.protocol !== 'https:')) {
      throw new AppError(
        'ERR_CLI_SERVER_URL',
        `'${address.url}' (from ${address.origin}) is not the URL of a server, expected for example ${DEFAULT_SERVER}`,
      )
    }
    this.#base = base
  }

  get signal(): AbortSignal {
    return this.#signal
  }

  /** The full URL of a path, for people. */
  urlOf(path: string): string {
    return this.#base.origin + this.#base.pathname.replace(/\/$/, '') + path
  }

  /**
   * A JSON answer.
   * @throws ERR_CLI_SERVER_UNREACHABLE, ERR_CLI_BAD_RESPONSE, and whatever code the server's problem names
   */
  async json<T>(path: string, options: RequestOptions = {}): Promise<T> {
    return (await this.exchange(path, options)).body as T
  }

  /** As `json`, with the status; statuses in `accept` are answers, not problems. */
  async exchange(
    path: string,
    options: RequestOptions & { readonly accept?: readonly number[] } = {},
  ): Promise<{ status: number; body: unknown }> {
    const response = await this.open(path, options)
    const status = response.statusCode ?? 0
    const accepted = options.accept?.includes(status) === true
    if (!accepted) await this.refuseProblem(response)
    if (status === 204) {
      response.resume()
      return { status, body: undefined }
    }
    return { status, body: await this.readJson(response, path) }
  }

  /** A data answer: its headers have come and say success; the caller reads the stream. */
  async stream(path: string, options: RequestOptions = {}): Promise<IncomingMessage> {
    const response = await this.open(path, options)
    await this.refuseProblem(response)
    return response
  }

  /** A request without body handling, for uploads. The caller adds `response` and `error` listeners and ends it. */
  start(path: string, options: RequestOptions): ClientRequest {
    const send = this.#base.protocol === 'https:' ? httpsRequest : httpRequest
    return send({
      protocol: this.#base.protocol,
      hostname: this.#base.hostname.replace(/^\[|\]$/g, ''),
      port: this.#base.port,
      path: this.#base.pathname.replace(/\/$/, '') + path,
      method: options.method ?? 'GET',
      headers: { accept: 'application/json', ...options.headers },
      signal: this.#signal,
    })
  }

  async open(path: string, options: RequestOptions): Promise<IncomingMessage> {
    const body = options.body === undefined ? undefined : JSON.stringify(options.body)
    const headers = {
      ...(body === undefined
        ? {}
        : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }),
      ...options.headers,
    }
    const request = this.start(path, { ...options, headers })
    const timeoutMs = options.answerTimeoutMs ?? ANSWER_TIMEOUT_MS
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        request.destroy(new Error(`no answer within ${formatDuration(timeoutMs)}`))
      }, timeoutMs)
      request.once('response', (response) => {
        clearTimeout(timer)
        resolve(response)
      })
      request.on('error', (error) => {
        clearTimeout(timer)
        reject(this.connectionError(error))
      })
      request.end(body)
    })
  }

  /** Turns a status of 400 and above into the AppError that the problem document names. */
  async refuseProblem(response: IncomingMessage): Promise<void> {
    const status = response.statusCode ?? 0
    if (status < 400) return
    const text = (await this.readBody(response)).toString('utf8')
    const type = response.headers['content-type'] ?? ''
    const problem = type.includes('json') ? parseProblem(text) : undefined
    if (problem === undefined) {
      throw new AppError(
        'ERR_CLI_BAD_RESPONSE',
        `${this.address.url} answered ${status} ${response.statusMessage ?? ''} without saying why`,
        { hint: `is it a commonpage server? the URL comes from ${this.address.origin}` },
      )
    }
    const { code, detail, hint } = problem
    throw new AppError(code, detail, {
      ...(hint === undefined ? {} : { hint }),
      details: { status },
    })
  }

  async readBody(response: IncomingMessage): Promise<Buffer> {
    const chunks: Buffer[] = []
    let length = 0
    try {
      for await (const chunk of response as AsyncIterable<Buffer>) {
        length += chunk.length
        if (length > MAX_JSON_BYTES) {
          response.destroy()
          throw new AppError(
            'ERR_CLI_BAD_RESPONSE',
            `${this.address.url} sent more than ${formatSize(MAX_JSON_BYTES)} where a list was expected`,
          )
        }
        chunks.push(chunk)
      }
    } catch (error) {
      throw this.connectionError(error)
    }
    return Buffer.concat(chunks, length)
  }

  /** What a socket error means to the user. Cancellation and AppErrors pass through. */
  connectionError(error: unknown): unknown {
    if (this.#signal.aborted) return this.#signal.reason
    if (error instanceof AppError) return error
    return new AppError(
      'ERR_CLI_SERVER_UNREACHABLE',
      `cannot talk to ${this.address.url} (from ${this.address.origin}): ${reasonOf(error)}`,
      {
        hint: FOREIGN.has(codeOf(error))
          ? `another program listens there, or the URL should begin differently (http, https); the default is ${DEFAULT_SERVER}`
          : 'start a server with `commonpage serve`, look at `systemctl status commonpage`, or name another with --server URL',
        cause: error,
      },
    )
  }

  /** @throws ERR_CLI_BAD_RESPONSE, naming the path that was asked for */
  async readJson<T>(response: IncomingMessage, path: string): Promise<T> {
    const body = await this.readBody(response)
    try {
      return JSON.parse(body.toString('utf8')) as T
    } catch (error) {
      throw new AppError('ERR_CLI_BAD_RESPONSE', `${this.urlOf(path)} did not answer with JSON`, {
        hint: `is it a commonpage server? the URL comes from ${this.address.origin}`,
        cause: error,
      })
    }
  }
}

const REASONS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'connection refused',
  ECONNRESET: 'the connection was closed',
  EPIPE: 'the connection was closed',
  ENOTFOUND: 'no such host',
  EAI_AGAIN: 'the name cannot be resolved now',
  EHOSTUNREACH: 'no route to the host',
  ENETUNREACH: 'no route to the network',
  ETIMEDOUT: 'the connection timed out',
  EPROTO: 'what answers there does not speak TLS',
  HPE_INVALID_CONSTANT: 'what answers there does not speak HTTP',
}

/** Something answers, but nothing of ours: an NBD port, http where https was named, and so on. */
const FOREIGN: ReadonlySet<string> = new Set(['EPROTO', 'HPE_INVALID_CONSTANT'])

function codeOf(error: unknown): string {
  // happy eyeballs: one error per address tried
  const inner: unknown = error instanceof AggregateError ? error.errors[0] : error
  return inner instanceof Error && 'code' in inner ? String(inner.code) : ''
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const code = codeOf(error)
  return REASONS[code] ?? (error.message === '' ? code : error.message)
}

function parseProblem(
  text: string,
): { code: string; detail: string; hint: string | undefined } | undefined {
  try {
    const value = JSON.parse(text) as Record<string, unknown> | null
    const code = value?.['code']
    const detail = value?.['detail']
    const hint = value?.['hint']
    if (typeof code !== 'string' || typeof detail !== 'string') return undefined
    return { code, detail, hint: typeof hint === 'string' ? hint : undefined }
  } catch {
    return undefined
  }
}
