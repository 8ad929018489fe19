/**
 * The refs of one domain: NAME:TAG → which image, which OCI manifest. The only objects that change, and
 * only by naming the generation that the change was decided on.
 */
import type { Digest } from '../core/index.ts'
import { AppError, isAppError, isDigest } from '../core/index.ts'
import { corrupt, isDamage } from './errors.ts'
import { parseRefSuffix, refKey, refsPrefix } from './layout.ts'
import type { StorageEngine, VersionedBytes } from './storage-engine.ts'
import { UNREADABLE } from './storage-engine.ts'
import type { StoreLogger } from './store-logger.ts'

/** What a ref points at: at least one of both. */
export interface RefTarget {
  /** An image record. */
  readonly image?: Digest
  /** An OCI manifest or index. */
  readonly oci?: Digest
}

export interface RefRecord extends RefTarget {
  /** From 1, one more with each change. */
  readonly generation: number
  /** ISO 8601, UTC. */
  readonly updatedAt: string
}

export interface ListedRef {
  /** NAME, components joined by `/`. */
  readonly name: string
  readonly tag: string
  readonly ref: RefRecord
}

export interface RefPage {
  readonly refs: readonly ListedRef[]
  /** To continue with as `after`; undefined at the end. */
  readonly next?: string
  /** `NAME:TAG` of refs that could not be read; they are logged as well. */
  readonly damaged: readonly string[]
}

export interface ListRefsOptions {
  /** Only names that start with this. */
  readonly prefix?: string
  /** `next` of the page before. */
  readonly after?: string
  /** Refs of one page, 1 to MAX_REFS_PAGE. */
  readonly limit?: number
}

export const MAX_REFS_PAGE = 1000
const DEFAULT_REFS_PAGE = 100

export class RefStore {
  readonly #engine: StorageEngine
  readonly #domain: string
  readonly #logger: StoreLogger

  constructor(engine: StorageEngine, domain: string, logger: StoreLogger) {
    this.#engine = engine
    this.#domain = domain
    this.#logger = logger
  }

  /** @throws ERR_STORE_CORRUPT, ERR_STORE_KEY_INVALID, ERR_STORE_READ_FAILED */
  async resolve(name: string, tag: string): Promise<RefRecord | undefined> {
    const key = refKey(this.#domain, name, tag)
    const current = await this.#read(key)
    return current === undefined ? undefined : decodeRef(current.bytes, key)
  }

  /**
   * Points a ref somewhere else if it is still at `generation` (0: if it does not exist, or cannot be
   * read because it is damaged).
   *
   * @returns the new record, durable
   * @throws ERR_STORE_REF_CONFLICT when somebody else was first; ERR_STORE_MEMBER; ERR_STORE_FULL
   */
  async compareAndSwap(
    name: string,
    tag: string,
    generation: number,
    target: RefTarget,
  ): Promise<RefRecord> {
    const record: RefRecord = {
      ...(target.image === undefined ? {} : { image: target.image }),
      ...(target.oci === undefined ? {} : { oci: target.oci }),
      generation: generation + 1,
      updatedAt: new Date().toISOString(),
    }
    if (record.image === undefined && record.oci === undefined) {
      throw new AppError('ERR_INVALID_ARGUMENT', `${name}:${tag} would point at nothing`)
    }
    await this.#swap(name, tag, generation, encodeRef(record))
    return record
  }

  /** Deletes a ref if it is still at `generation`. Errors as `compareAndSwap`. */
  async delete(name: string, tag: string, generation: number): Promise<void> {
    await this.#swap(name, tag, generation, undefined)
  }

  /** Refs in the order of `NAME/_tags/TAG`. */
  async list(options: ListRefsOptions = {}): Promise<RefPage> {
    const limit = Math.min(Math.max(options.limit ?? DEFAULT_REFS_PAGE, 1), MAX_REFS_PAGE)
    const base = refsPrefix(this.#domain)
    const refs: ListedRef[] = []
    const damaged: string[] = []
    const after = options.after === undefined ? {} : { after: base + options.after }
    const pages = this.#engine.list(base + (options.prefix ?? ''), after)
    for await (const page of pages) {
      for (const { key } of page) {
        const suffix = key.slice(base.length)
        const parts = parseRefSuffix(suffix)
        if (parts === undefined) continue
        const ref = await this.#resolveListed(parts.name, parts.tag, damaged)
        if (ref !== undefined) refs.push({ ...parts, ref })
        if (refs.length + damaged.length === limit) return { refs, damaged, next: suffix }
      }
    }
    return { refs, damaged }
  }

  async #resolveListed(
    name: string,
    tag: string,
    damaged: string[],
  ): Promise<RefRecord | undefined> {
    try {
      return await this.resolve(name, tag)
    } catch (error) {
      if (!isDamage(error)) throw error
      damaged.push(`${name}:${tag}`)
      this.#logger.warn(
        { event: 'store.ref.damaged', domain: this.#domain, name, tag, err: error },
        'a damaged ref was left out of a list',
      )
      return undefined
    }
  }

  async #swap(
    name: string,
    tag: string,
    generation: number,
    bytes: Uint8Array | undefined,
  ): Promise<void> {
    const key = refKey(this.#domain, name, tag)
    const current = await this.#current(key)
    const found = current.generation
    const swapped =
      found === generation
        ? await this.#engine.compareAndSwap(key, current.version, bytes)
        : undefined
    if (swapped !== undefined) return
    throw new AppError(
      'ERR_STORE_REF_CONFLICT',
      `${this.#domain}/${name}:${tag} is not at generation ${generation} any more`,
      {
        hint: 'read the tag again and repeat the change',
        details: { expected: generation, found },
      },
    )
  }

  /** What a change starts from. A damaged ref is at generation 0, as one that does not exist. */
  async #current(key: string): Promise<{ readonly generation: number; readonly version?: string }> {
    let version = UNREADABLE
    try {
      const current = await this.#read(key)
      if (current === undefined) return { generation: 0 }
      version = current.version
      return { generation: decodeRef(current.bytes, key).generation, version }
    } catch (error) {
      if (!isDamage(error)) throw error
      return { generation: 0, version }
    }
  }

  async #read(key: string): Promise<VersionedBytes | undefined> {
    try {
      return await this.#engine.getVersioned(key)
    } catch (error) {
      // Nobody sent too much: what is stored is no ref.
      if (!isAppError(error) || error.code !== 'ERR_STORE_TOO_LARGE') throw error
      throw corrupt(key, error.message, error)
    }
  }
}

export function encodeRef(record: RefRecord): Buffer {
  return Buffer.from(`${JSON.stringify(record)}\n`)
}

/** Unknown fields are passed over: a later version may add some. @throws ERR_STORE_CORRUPT */
export function decodeRef(bytes: Uint8Array, what: string): RefRecord {
  let value: unknown
  try {
    value = JSON.parse(Buffer.from(bytes).toString('utf8'))
  } catch (error) {
    throw corrupt(what, 'it is not JSON', error)
  }
  if (typeof value !== 'object' || value === null) throw corrupt(what, 'it is not a JSON object')
  const { image, oci, generation, updatedAt } = value as Readonly<Record<string, unknown>>
  const whole = typeof generation === 'number' && Number.isSafeInteger(generation)
  if (!whole || generation < 1 || typeof updatedAt !== 'string') {
    throw corrupt(what, 'it has no generation or no updatedAt')
  }
  if (image === undefined && oci === undefined) throw corrupt(what, 'it points at nothing')
  return {
    ...(image === undefined ? {} : { image: refDigest(image, what) }),
    ...(oci === undefined ? {} : { oci: refDigest(oci, what) }),
    generation,
    updatedAt,
  }
}

function refDigest(value: unknown, what: string): Digest {
  if (typeof value === 'string' && isDigest(value)) return value
  throw corrupt(what, `${JSON.stringify(value)} is not a digest`)
}
