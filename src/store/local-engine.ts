/**
 * The storage engine over a directory: keys are paths. Objects are linked into place complete and
 * fsynced; refs are replaced by rename, serialized inside the one process that owns them. It does not
 * know what objects mean, nor who may open the directory (data-directory.ts).
 */
import { createHash, randomBytes } from 'node:crypto'
import type { Dirent } from 'node:fs'
import * as fs from 'node:fs/promises'
import * as path from 'node:path'

import { AppError } from '../core/index.ts'
import { errnoOf, isDamage, readError, writeError } from './errors.ts'
import { DOMAINS, UPLOADS, checkKey, isHidden } from './layout.ts'
import type { StepHook } from './publication.ts'
import { Publisher } from './publication.ts'
import type {
  ByteRange,
  ListOptions,
  ObjectHead,
  PreparedObject,
  StagedFile,
  StorageEngine,
  VersionedBytes,
} from './storage-engine.ts'
import { MAX_LIST_PAGE, MAX_WHOLE_GET_BYTES, UNREADABLE } from './storage-engine.ts'

export interface LocalEngineOptions {
  /** An absolute path of an existing folder. */
  readonly dataDir: string
  /** True in the one process that may change refs. */
  readonly changesRefs: boolean
  readonly afterStep?: StepHook
}

/** A unique name in an uploads folder: the pid says whose it is, the rest makes it unique. */
export function stagingName(): string {
  return `${process.pid}-${randomBytes(12).toString('hex')}`
}

/** Whether a process of this pid gave the name. */
export function isStagedBy(name: string, pid: number): boolean {
  return name.startsWith(`${pid}-`)
}

export class LocalEngine implements StorageEngine {
  readonly #root: string
  readonly #changesRefs: boolean
  readonly #publisher: Publisher
  /** Tail of the queue of changes of each ref that is being changed now. */
  readonly #changing = new Map<string, Promise<unknown>>()

  constructor(options: LocalEngineOptions) {
    this.#root = options.dataDir
    this.#changesRefs = options.changesRefs
    this.#publisher = new Publisher(options.dataDir, options.afterStep)
  }

  async put(key: string, body: Uint8Array | StagedFile): Promise<'created' | 'present'> {
    await using prepared = await this.prepare(key, body)
    return await prepared.publish()
  }

  async prepare(key: string, body: Uint8Array | StagedFile): Promise<PreparedObject> {
    const target = this.#path(key)
    let staged: string | undefined = body instanceof Uint8Array ? undefined : body.path
    try {
      if (body instanceof Uint8Array) {
        staged = path.join(await this.stagingFolder(key), stagingName())
        await this.#publisher.stage(staged, body)
      } else {
        await this.#publisher.syncFile(body.path)
      }
      await this.#publisher.makeFolder(path.dirname(target))
    } catch (error) {
      if (staged !== undefined) await fs.rm(staged, { force: true })
      throw writeError(error, key)
    }
    return this.#prepared(key, staged ?? '', target)
  }

  async settle(keys: readonly string[]): Promise<void> {
    const folders = new Set<string>()
    for (const key of keys) {
      if ((await this.head(key)) !== undefined) folders.add(path.dirname(this.#path(key)))
    }
    for (const folder of folders) {
      try {
        await this.#publisher.settle(folder)
      } catch (error) {
        throw writeError(error, folder)
      }
    }
  }

  async get(key: string, range?: ByteRange, target?: Uint8Array): Promise<Uint8Array | undefined> {
    const file = this.#path(key)
    try {
      await using handle = await fs.open(file, 'r')
      const { size } = await handle.stat()
      const { offset, length } = range ?? { offset: 0, length: size }
      if (!(offset >= 0 && length >= 0 && offset + length <= size)) {
        throw new AppError(
          'ERR_STORE_RANGE',
          `range ${offset}+${length} of ${key} is outside of its ${size} bytes`,
        )
      }
      if (range === undefined && length > MAX_WHOLE_GET_BYTES) {
        throw new AppError(
          'ERR_STORE_TOO_LARGE',
          `${key} has ${size} bytes, expected at most ${MAX_WHOLE_GET_BYTES} in one piece`,
        )
      }
      const into = target?.subarray(0, length) ?? new Uint8Array(length)
      if (into.byteLength < length) throw new RangeError(`target is shorter than ${length} bytes`)
      await readFully(handle, into, offset, key)
      return into
    } catch (error) {
      if (isAbsence(error)) return undefined
      throw readError(error, key)
    }
  }

  async head(key: string): Promise<ObjectHead | undefined> {
    try {
      const stat = await fs.stat(this.#path(key))
      return stat.isFile() ? { key, size: stat.size } : undefined
    } catch (error) {
      if (isAbsence(error)) return undefined
      throw readError(error, key)
    }
  }

  async *list(
    prefix: string,
    options: ListOptions = {},
  ): AsyncGenerator<readonly ObjectHead[], void, undefined> {
    const pageSize = Math.min(Math.max(options.pageSize ?? MAX_LIST_PAGE, 1), MAX_LIST_PAGE)
    let page: ObjectHead[] = []
    const folder = prefix.slice(0, prefix.lastIndexOf('/') + 1)
    for await (const key of this.#walk(folder, prefix, options.after ?? '')) {
      const head = await this.head(key)
      // Deleted since its folder was read.
      if (head === undefined) continue
      page.push(head)
      if (page.length < pageSize) continue
      yield page
      page = []
    }
    if (page.length > 0) yield page
  }

  async listGroups(prefix: string): Promise<readonly string[]> {
    const groups: string[] = []
    for (const entry of await this.#entries(prefix)) {
      if (!entry.isDirectory()) continue
      const walk = this.#walk(`${prefix}${entry.name}/`, `${prefix}${entry.name}/`, '')
      if ((await walk.next()).done !== true) groups.push(entry.name)
      await walk.return()
    }
    return groups
  }

  async delete(key: string): Promise<boolean> {
    const target = this.#path(key)
    try {
      const existed = await this.#publisher.remove(target)
      if (existed) await this.#publisher.prune(target, path.join(this.#root, DOMAINS))
      return existed
    } catch (error) {
      throw writeError(error, key)
    }
  }

  async getVersioned(key: string): Promise<VersionedBytes | undefined> {
    const bytes = await this.get(key)
    return bytes === undefined ? undefined : { bytes, version: versionOf(bytes) }
  }

  async compareAndSwap(
    key: string,
    expected: string | undefined,
    bytes: Uint8Array | undefined,
  ): Promise<string | undefined> {
    const target = this.#path(key)
    if (!this.#changesRefs) {
      throw new AppError(
        'ERR_STORE_MEMBER',
        `cannot change ${key}: only the process that owns the store changes refs`,
      )
    }
    const before = this.#changing.get(key)
    const change = (async () => {
      if (before !== undefined) await before.catch(() => undefined)
      return await this.#swap(key, target, expected, bytes)
    })()
    this.#changing.set(key, change)
    try {
      return await change
    } finally {
      if (this.#changing.get(key) === change) this.#changing.delete(key)
    }
  }

  async stagingFolder(key: string): Promise<string> {
    const [, domain = ''] = checkKey(key).split('/')
    const folder = path.join(this.#root, DOMAINS, domain, UPLOADS)
    try {
      await this.#publisher.makeFolder(folder)
    } catch (error) {
      throw writeError(error, folder)
    }
    return folder
  }

  localPath(key: string): string {
    return this.#path(key)
  }

  async freeBytes(): Promise<number> {
    try {
      const { bavail, bsize } = await fs.statfs(this.#root)
      return bavail * bsize
    } catch (error) {
      throw readError(error, this.#root)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#changing.values())
  }

  #prepared(key: string, staged: string, target: string): PreparedObject {
    return {
      publish: async () => {
        try {
          return await this.#publisher.link(staged, target)
        } catch (error) {
          throw writeError(error, key)
        }
      },
      replace: async () => {
        try {
          await this.#publisher.replace(staged, target)
        } catch (error) {
          throw writeError(error, key)
        }
      },
      [Symbol.asyncDispose]: () => fs.rm(staged, { force: true }),
    }
  }

  async #swap(
    key: string,
    target: string,
    expected: string | undefined,
    bytes: Uint8Array | undefined,
  ): Promise<string | undefined> {
    const current = await this.#version(key)
    if (current !== expected) return undefined
    try {
      if (bytes !== undefined) {
        const staged = path.join(await this.stagingFolder(key), stagingName())
        await this.#publisher.stage(staged, bytes)
        try {
          await this.#publisher.replace(staged, target)
        } catch (error) {
          await fs.rm(staged, { force: true })
          throw error
        }
        return versionOf(bytes)
      }
      if (current === undefined) return undefined
      await this.#publisher.remove(target)
      await this.#publisher.prune(target, path.join(this.#root, DOMAINS))
      return 'deleted'
    } catch (error) {
      throw writeError(error, key)
    }
  }

  /** Undefined when there is no such object. */
  async #version(key: string): Promise<string | undefined> {
    try {
      return (await this.getVersioned(key))?.version
    } catch (error) {
      if (isDamage(error)) return UNREADABLE
      throw error
    }
  }

  /** Keys below a folder (`…/`, or empty for the root) that start with `prefix` and sort after `after`. */
  async *#walk(
    folder: string,
    prefix: string,
    after: string,
  ): AsyncGenerator<string, void, undefined> {
    for (const entry of await this.#entries(folder)) {
      const key = folder + entry.name
      if (entry.isDirectory()) {
        const inside = `${key}/`
        const relevant = inside.startsWith(prefix) || prefix.startsWith(inside)
        // Every key inside sorts at or before `after` unless `after` is inside or before it.
        const ahead = inside > after || after.startsWith(inside)
        if (relevant && ahead) yield* this.#walk(inside, prefix, after)
      } else if (entry.isFile() && key.startsWith(prefix) && key > after) {
        yield key
      }
    }
  }

  /** One folder's entries in the order of the keys they lead to; nothing that is no object. */
  async #entries(folder: string): Promise<Dirent[]> {
    const depth = folder.split('/').length - 1
    let entries: Dirent[]
    try {
      entries = await fs.readdir(path.join(this.#root, folder), { withFileTypes: true })
    } catch (error) {
      if (isAbsence(error)) return []
      throw readError(error, folder)
    }
    const inDomain = depth === 2 && folder.startsWith(`${DOMAINS}/`)
    return entries
      .filter((entry) => isObjectName(folder, entry) && !(inDomain && isHidden(entry.name)))
      .toSorted((a, b) => (sortName(a) < sortName(b) ? -1 : 1))
  }

  #path(key: string): string {
    return path.join(this.#root, checkKey(key))
  }
}

/** Keys are ASCII, so the order of strings is the order of bytes; a folder sorts as its keys: with the slash. */
function sortName(entry: Dirent): string {
  return entry.isDirectory() ? `${entry.name}/` : entry.name
}

/** Files that are no keys (the lock, an editor's copy) are not listed. */
function isObjectName(folder: string, entry: Dirent): boolean {
  if (folder === '') return entry.name === DOMAINS && entry.isDirectory()
  return /^[A-Za-z0-9._-]+$/.test(entry.name)
}

/** A component of the path that is missing, or is a file where a folder would be. */
function isAbsence(error: unknown): boolean {
  const errno = errnoOf(error)
  return errno === 'ENOENT' || errno === 'ENOTDIR'
}

function versionOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex').slice(0, 32)
}

async function readFully(
  handle: fs.FileHandle,
  into: Uint8Array,
  offset: number,
  key: string,
): Promise<void> {
  for (let done = 0; done < into.byteLength;) {
    const { bytesRead } = await handle.read(into, done, into.byteLength - done, offset + done)
    if (bytesRead === 0) {
      throw new AppError('ERR_STORE_READ_FAILED', `${key} ends before byte ${offset + done}`)
    }
    done += bytesRead
  }
}
