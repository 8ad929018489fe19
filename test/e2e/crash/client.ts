/**
 * A client that imports, tags and removes without pause, on tags of its own, until the server is gone. Every
 * choice comes from a seeded generator; what was promised goes into the history.
 */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'

import { loadFixture, sha256 } from '../../erofs/fixtures.ts'
import type { Random } from '../../random.ts'
import type { Change, Content, History } from './history.ts'

export const DOMAIN = 'crash'
export const NAME = 'app'
const TAGS_PER_CLIENT = 3
const BASES = ['plain', 'plain-noinline', 'chunk-4k', 'prefixes']
const BLOCK = 4096
/** At most so many blocks of an image differ from those of its base. */
const MAX_CHANGED_BLOCKS = 24
/** What fetch's error is caused by when nobody listens: the request was not sent. */
const REFUSED = 'ECONNREFUSED'
/** And when a connection breaks: the request may have been read or not. */
const BROKEN: readonly string[] = ['ECONNRESET', 'EPIPE', 'UND_ERR_SOCKET']

/** An image that shares most of its bytes with others. */
export function relatedImage(random: Random): Buffer {
  const [device] = loadFixture(BASES[random.next(BASES.length)] ?? '').devices
  assert.ok(device !== undefined)
  const image = Buffer.from(device)
  const blocks = Math.floor(image.byteLength / BLOCK)
  const first = Math.floor(blocks / 2) + random.next(Math.floor(blocks / 4))
  const count = 1 + random.next(Math.min(MAX_CHANGED_BLOCKS, blocks - first))
  random.bytes(count * BLOCK).copy(image, first * BLOCK)
  return image
}

export interface ImportedImage {
  readonly tag: string
  readonly image: Buffer
}

export interface ClientOptions {
  readonly http: string
  readonly name: string
  readonly random: Random
  readonly history: History
  /** A request is being sent. */
  readonly onAsk: (change: Change) => void
}

export class CrashClient {
  readonly name: string
  readonly #options: ClientOptions
  #importing: ImportedImage | undefined
  #acknowledged = 0

  constructor(options: ClientOptions) {
    this.name = options.name
    this.#options = options
  }

  /** What was being imported when the server went. */
  get interrupted(): ImportedImage | undefined {
    return this.#importing
  }

  /** Requests that were answered. */
  get acknowledged(): number {
    return this.#acknowledged
  }

  /** Works until a request gets no answer. @throws when one is answered with an error */
  async work(): Promise<void> {
    try {
      for (;;) {
        await this.#step()
        this.#acknowledged++
      }
    } catch (error) {
      const code = connectionError(error)
      if (code !== REFUSED && !BROKEN.includes(code ?? '')) throw error
    }
  }

  async #step(): Promise<void> {
    const { name, random } = this.#options
    const tag = `${name}-${random.next(TAGS_PER_CLIENT)}`
    const other = `${name}-${random.next(TAGS_PER_CLIENT)}`
    const { history } = this.#options
    const dice = random.next(10)
    if (dice < 5) await this.importImage(tag, relatedImage(random))
    else if (dice < 8 && history.current(refOf(other)) !== undefined)
      await this.#moveTag(other, tag)
    else if (history.current(refOf(tag)) !== undefined) await this.#remove(tag)
    else await this.importImage(tag, relatedImage(random))
  }

  async importImage(tag: string, image: Buffer): Promise<void> {
    const content = sha256(image)
    this.#importing = { tag, image }
    const path = `/v1/images/${refOf(tag)}?format=erofs&wait=true`
    const body = new Uint8Array(image)
    const request = { method: 'POST', body }
    const answer = await this.#change(tag, 'import', content, () => this.#send(path, 201, request))
    this.#options.history.acknowledgeImage((answer as { digest: string }).digest, content)
    this.#importing = undefined
  }

  async #moveTag(from: string, tag: string): Promise<void> {
    const request = {
      method: 'PUT',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ from: refOf(from) }),
    }
    const content = this.#options.history.current(refOf(from))
    await this.#change(tag, 'move', content, () =>
      this.#send(`/v1/images/${refOf(tag)}`, 200, request),
    )
  }

  async #remove(tag: string): Promise<void> {
    await this.#change(tag, 'removal', undefined, () =>
      this.#send(`/v1/images/${refOf(tag)}`, 204, { method: 'DELETE' }),
    )
  }

  async #change(
    tag: string,
    change: Change,
    content: Content | undefined,
    send: () => Promise<unknown>,
  ): Promise<unknown> {
    const { history, onAsk } = this.#options
    history.ask(refOf(tag), change, content)
    onAsk(change)
    try {
      const answer = await send()
      history.acknowledge(refOf(tag))
      return answer
    } catch (error) {
      if (connectionError(error) === REFUSED) history.withdraw(refOf(tag))
      throw error
    }
  }

  async #send(path: string, expected: number, request: RequestInit): Promise<unknown> {
    const response = await fetch(this.#options.http + path, request)
    const text = await response.text()
    assert.equal(response.status, expected, `${request.method} ${path}: ${text}`)
    return text === '' ? undefined : JSON.parse(text)
  }
}

/** The code of what broke a request; a mistake of the test has none. */
function connectionError(error: unknown): string | undefined {
  if (!(error instanceof TypeError) || !(error.cause instanceof Error)) return undefined
  return 'code' in error.cause ? String(error.cause.code) : undefined
}

function refOf(tag: string): string {
  return `${DOMAIN}/${NAME}:${tag}`
}

interface ListedImage {
  readonly ref: string
  readonly digest: string
  readonly devices: readonly { readonly digest: string }[]
}

/** Every listed reference with the image's digest, and what it claims to be. */
export async function listImages(
  http: string,
): Promise<Map<string, { digest: string; content: Content }>> {
  const found = new Map<string, { digest: string; content: Content }>()
  let cursor = ''
  do {
    const response = await fetch(`${http}/v1/images?domain=${DOMAIN}${cursor}`)
    assert.equal(response.status, 200)
    const page = (await response.json()) as { images: ListedImage[]; nextCursor?: string }
    for (const { ref, digest, devices } of page.images) {
      found.set(ref, { digest, content: devices[0]?.digest.slice('sha256:'.length) ?? '' })
    }
    cursor = page.nextCursor === undefined ? '' : `&cursor=${page.nextCursor}`
  } while (cursor !== '')
  return found
}

/** The image's bytes as they are served, hashed while they come. */
export async function servedContent(http: string, digest: string): Promise<Content> {
  const response = await fetch(`${http}/v1/images/${DOMAIN}/${NAME}@${digest}/-/raw`)
  assert.equal(response.status, 200, `${digest}: ${response.status}`)
  const hash = createHash('sha256')
  for await (const piece of response.body ?? []) hash.update(piece as Uint8Array)
  return hash.digest('hex')
}
