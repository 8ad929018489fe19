/**
 * The address maps of one domain. A device's map may be written again (after compaction) as a new
 * generation; the newest that is valid is the map. The form is map-codec.ts.
 */
import type { Digest } from '../core/index.ts'
import { AppError } from '../core/index.ts'
import { corrupt, isDamage } from './errors.ts'
import { digestOfKey, mapKey, mapPrefix, mapsPrefix } from './layout.ts'
import type { DeviceMap } from './map-codec.ts'
import { decodeMap } from './map-codec.ts'
import type { Publishable, StorageEngine } from './storage-engine.ts'
import type { StoreLogger } from './store-logger.ts'

export interface StoredMap {
  /** From 1. */
  readonly generation: number
  readonly map: DeviceMap
  /** The file, of which `map.extents` is a view. */
  readonly bytes: Uint8Array
}

/** A map that is durable and not visible yet. */
export interface PreparedMap extends AsyncDisposable {
  /** Once. @returns the generation */
  publish(): Promise<number>
}

interface NextGeneration extends Publishable {
  readonly generation: number
}

export interface GetMapOptions {
  /** Gives the memory for the file's bytes (4-byte aligned), for example shared memory. */
  readonly allocate?: (bytes: number) => Uint8Array
}

/** Two writers of one device's map race only so often before something else is wrong. */
const MAX_PUT_ATTEMPTS = 16
/** Decimal, canonical, and small enough to stay exact. */
const GENERATION = /^[1-9][0-9]{0,14}$/

export class MapStore {
  readonly #engine: StorageEngine
  readonly #domain: string
  readonly #logger: StoreLogger

  constructor(engine: StorageEngine, domain: string, logger: StoreLogger) {
    this.#engine = engine
    this.#domain = domain
    this.#logger = logger
  }

  /**
   * Stores a map as the device's next generation; a map equal to the current one is not stored again.
   *
   * @returns the generation
   * @throws ERR_STORE_CORRUPT when the bytes are no valid map; ERR_STORE_FULL, ERR_STORE_WRITE_FAILED
   */
  async put(device: Digest, bytes: Uint8Array): Promise<number> {
    await using prepared = await this.prepare(device, bytes)
    return await prepared.publish()
  }

  /** The half of `put` that needs room. Errors as `put`. */
  async prepare(device: Digest, bytes: Uint8Array): Promise<PreparedMap> {
    decodeMap(bytes, `the map of device ${device}`)
    let next = await this.#prepareNext(device, bytes)
    return {
      publish: async () => {
        for (let attempt = 1; ; attempt++) {
          if ((await next.publish()) === 'created') return next.generation
          if (attempt === MAX_PUT_ATTEMPTS) throw contended(device)
          next = await this.#prepareNext(device, bytes)
        }
      },
      [Symbol.asyncDispose]: () => next[Symbol.asyncDispose](),
    }
  }

  /** Makes sure that the maps of these devices survive a crash, whoever stored them. @throws ERR_STORE_WRITE_FAILED */
  async settle(devices: readonly Digest[]): Promise<void> {
    const keys: string[] = []
    for (const device of devices) {
      const generations = await this.generations(device)
      keys.push(...generations.map((generation) => mapKey(this.#domain, device, generation)))
    }
    await this.#engine.settle(keys)
  }

  /**
   * The newest valid generation; damaged ones are logged and passed over. Undefined when there is none at
   * all.
   *
   * @throws ERR_STORE_CORRUPT when there are generations and none is valid
   */
  async get(device: Digest, options: GetMapOptions = {}): Promise<StoredMap | undefined> {
    const generations = await this.generations(device)
    let damage: AppError | undefined
    for (const generation of generations) {
      try {
        const stored = await this.#read(device, generation, options)
        if (stored !== undefined) return stored
      } catch (error) {
        if (!isDamage(error)) throw error
        damage = error
        this.#logger.warn(
          { event: 'store.map.damaged', domain: this.#domain, device, generation, err: error },
          'a damaged map was passed over',
        )
      }
    }
    if (damage === undefined) return undefined
    throw corrupt(`the map of device ${device}`, 'no generation is valid', damage)
  }

  /** As `get`. @throws ERR_STORE_MAP_MISSING */
  async require(device: Digest, options: GetMapOptions = {}): Promise<StoredMap> {
    const stored = await this.get(device, options)
    if (stored !== undefined) return stored
    throw new AppError(
      'ERR_STORE_MAP_MISSING',
      `domain ${this.#domain} has no map of device ${device}`,
    )
  }

  /** Newest first. */
  async generations(device: Digest): Promise<number[]> {
    const prefix = mapPrefix(this.#domain, device)
    const found: number[] = []
    for await (const page of this.#engine.list(prefix)) {
      for (const { key } of page) {
        const name = key.slice(prefix.length)
        if (GENERATION.test(name)) found.push(Number(name))
      }
    }
    return found.toSorted((a, b) => b - a)
  }

  /** Devices that have a map, in the order of their digests. */
  async *list(): AsyncGenerator<Digest> {
    let last: Digest | undefined
    for await (const page of this.#engine.list(mapsPrefix(this.#domain))) {
      for (const { key } of page) {
        const device = digestOfKey(key.slice(0, key.lastIndexOf('/')))
        if (device === undefined || device === last) continue
        yield device
        last = device
      }
    }
  }

  async delete(device: Digest, generation: number): Promise<boolean> {
    return await this.#engine.delete(mapKey(this.#domain, device, generation))
  }

  /** What is there already counts as created. */
  async #prepareNext(device: Digest, bytes: Uint8Array): Promise<NextGeneration> {
    const current = await this.get(device)
    if (current !== undefined && Buffer.compare(current.bytes, bytes) === 0) {
      const { generation } = current
      const settle = () => this.#engine.settle([mapKey(this.#domain, device, generation)])
      return {
        generation,
        publish: () => settle().then(() => 'created' as const),
        [Symbol.asyncDispose]: () => Promise.resolve(),
      }
    }
    const generation = ((await this.generations(device))[0] ?? 0) + 1
    const prepared = await this.#engine.prepare(mapKey(this.#domain, device, generation), bytes)
    return {
      generation,
      publish: () => prepared.publish(),
      [Symbol.asyncDispose]: () => prepared[Symbol.asyncDispose](),
    }
  }

  async #read(
    device: Digest,
    generation: number,
    { allocate = (bytes) => new Uint8Array(bytes) }: GetMapOptions,
  ): Promise<StoredMap | undefined> {
    const key = mapKey(this.#domain, device, generation)
    const head = await this.#engine.head(key)
    if (head === undefined) return undefined
    const range = { offset: 0, length: head.size }
    const bytes = await this.#engine.get(key, range, allocate(head.size))
    return bytes === undefined ? undefined : { generation, map: decodeMap(bytes, key), bytes }
  }
}

function contended(device: Digest): AppError {
  return new AppError(
    'ERR_STORE_WRITE_FAILED',
    `others wrote ${MAX_PUT_ATTEMPTS} generations of the map of ${device} meanwhile`,
  )
}
