/** The image records and OCI manifests of one domain: small immutable documents named by their digest. What they say is not known here. */
import type { Digest } from '../core/index.ts'
import { AppError, digestOf } from '../core/index.ts'
import { corrupt, isDamage } from './errors.ts'
import { digestOfKey, manifestKey, manifestsPrefix } from './layout.ts'
import type { StorageEngine } from './storage-engine.ts'

/** distribution-spec asks for 4 MiB at least; a record of 65,535 devices is 8 MiB. */
export const MAX_MANIFEST_BYTES = 16 * 1024 * 1024

/** A manifest that is durable and not visible yet. */
export interface PreparedManifest extends AsyncDisposable {
  /** Once. */
  publish(): Promise<Digest>
}

export class ManifestStore {
  readonly #engine: StorageEngine
  readonly #domain: string

  constructor(engine: StorageEngine, domain: string) {
    this.#engine = engine
    this.#domain = domain
  }

  /** @throws ERR_STORE_TOO_LARGE, ERR_STORE_FULL, ERR_STORE_WRITE_FAILED */
  async put(bytes: Uint8Array): Promise<Digest> {
    await using prepared = await this.prepare(bytes)
    return await prepared.publish()
  }

  /** The half of `put` that needs room. Errors as `put`. */
  async prepare(bytes: Uint8Array): Promise<PreparedManifest> {
    if (bytes.byteLength > MAX_MANIFEST_BYTES) {
      throw new AppError(
        'ERR_STORE_TOO_LARGE',
        `a manifest of ${bytes.byteLength} bytes, expected at most ${MAX_MANIFEST_BYTES}`,
      )
    }
    const digest = digestOf(bytes)
    const damaged = await this.#isDamaged(digest)
    const prepared = await this.#engine.prepare(manifestKey(this.#domain, digest), bytes)
    return {
      publish: async () => {
        await (damaged ? prepared.replace() : prepared.publish())
        return digest
      },
      [Symbol.asyncDispose]: () => prepared[Symbol.asyncDispose](),
    }
  }

  /** Undefined when there is none. @throws ERR_STORE_CORRUPT when the bytes are not those of the digest */
  async get(digest: Digest): Promise<Uint8Array | undefined> {
    const key = manifestKey(this.#domain, digest)
    const bytes = await this.#engine.get(key)
    if (bytes === undefined) return undefined
    const found = digestOf(bytes)
    if (found !== digest) throw corrupt(key, `its bytes are ${found}`)
    return bytes
  }

  /** As `get`. @throws ERR_STORE_MANIFEST_MISSING */
  async require(digest: Digest): Promise<Uint8Array> {
    const bytes = await this.get(digest)
    if (bytes !== undefined) return bytes
    throw new AppError(
      'ERR_STORE_MANIFEST_MISSING',
      `domain ${this.#domain} has no manifest ${digest}`,
    )
  }

  /** In the order of the digests. */
  async *list(options: { after?: Digest } = {}): AsyncGenerator<Digest> {
    const prefix = manifestsPrefix(this.#domain)
    const after =
      options.after === undefined ? {} : { after: manifestKey(this.#domain, options.after) }
    for await (const page of this.#engine.list(prefix, after)) {
      for (const { key } of page) {
        const digest = digestOfKey(key)
        if (digest !== undefined) yield digest
      }
    }
  }

  async delete(digest: Digest): Promise<boolean> {
    return await this.#engine.delete(manifestKey(this.#domain, digest))
  }

  /** A document that is there and whose bytes are others: storing it again puts it right. */
  async #isDamaged(digest: Digest): Promise<boolean> {
    try {
      await this.get(digest)
      return false
    } catch (error) {
      if (isDamage(error)) return true
      throw error
    }
  }
}
