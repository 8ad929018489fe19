/**
 * What the store needs of a place that keeps bytes: a key names an immutable object, a few keys (refs)
 * are changed by compare-and-swap. No rename, folder, append or lock is assumed, so that a bucket can
 * be an engine as well as a directory. The contract suite in test/contract/storage-engine.ts holds for
 * every implementation.
 */

/** A finished file on this machine that becomes an object. It is consumed: gone after `put` or `publish`, whatever happens. */
export interface StagedFile {
  /** In `stagingFolder(key)`. */
  readonly path: string
}

/** Something for which everything is done that needs room: only its name is missing. Disposing of it removes what is staged. */
export interface Publishable extends AsyncDisposable {
  /** Creates the object, as `put`. Once. */
  publish(): Promise<'created' | 'present'>
}

/** Published once, or replaced once. */
export interface PreparedObject extends Publishable {
  /**
   * Puts the object in the place of one whose bytes are damaged, or creates it. Who reads the key meanwhile
   * sees the old bytes or the new, never a mixture; who has it open goes on with the old ones.
   *
   * @throws ERR_STORE_FULL, ERR_STORE_WRITE_FAILED: the old bytes stay
   */
  replace(): Promise<void>
}

export interface ObjectHead {
  readonly key: string
  /** Bytes. */
  readonly size: number
}

/** Half-open: [offset, offset + length). */
export interface ByteRange {
  readonly offset: number
  readonly length: number
}

export interface ListOptions {
  /** Only keys that sort after this one. */
  readonly after?: string
  /** Entries of one page, 1 to MAX_LIST_PAGE. */
  readonly pageSize?: number
}

/** As many entries as one answer of S3 holds. */
export const MAX_LIST_PAGE = 1000
/** `get` without a range refuses larger objects: a caller that expects one reads it in pieces. */
export const MAX_WHOLE_GET_BYTES = 64 * 1024 * 1024

/** Stands for the version of a changeable object that is there and cannot be read, so that it can be replaced. */
export const UNREADABLE = 'unreadable'

/** Bytes of a changeable object with the token that a change must name. */
export interface VersionedBytes {
  readonly bytes: Uint8Array
  /** Opaque. Two different contents of a key have different versions. */
  readonly version: string
}

export interface StorageEngine extends AsyncDisposable {
  /**
   * Creates an object if the key is free. When this resolves the object is complete and survives a
   * crash; until then it does not exist for anybody, or all of it does.
   *
   * @returns `present` when the key existed: its bytes stay as they were
   * @throws ERR_STORE_FULL, ERR_STORE_WRITE_FAILED: nothing is left behind
   */
  put(key: string, body: Uint8Array | StagedFile): Promise<'created' | 'present'>

  /**
   * The first half of `put`: the bytes are durable when this resolves, and nobody sees them. Several objects
   * that belong together are all prepared before the first is published, so that a full disk leaves none.
   *
   * @throws ERR_STORE_FULL, ERR_STORE_WRITE_FAILED: nothing is left behind
   */
  prepare(key: string, body: Uint8Array | StagedFile): Promise<PreparedObject>

  /**
   * Makes sure that objects which can be seen survive a crash: whoever put them may have been killed between
   * the one and the other. Keys that do not exist are passed over.
   *
   * @throws ERR_STORE_WRITE_FAILED
   */
  settle(keys: readonly string[]): Promise<void>

  /**
   * All bytes of an object (at most MAX_WHOLE_GET_BYTES) or a range of them; undefined when there is no
   * such key. With `target`, the bytes are written to its start and the result is a view of it.
   *
   * @throws ERR_STORE_RANGE when the range is not inside the object, ERR_STORE_TOO_LARGE, ERR_STORE_READ_FAILED
   */
  get(key: string, range?: ByteRange, target?: Uint8Array): Promise<Uint8Array | undefined>

  head(key: string): Promise<ObjectHead | undefined>

  /** Objects whose key starts with `prefix`, in the order of the keys' bytes, page by page. */
  list(prefix: string, options?: ListOptions): AsyncIterable<readonly ObjectHead[]>

  /**
   * The distinct components that follow `prefix` (which ends in `/`) in the keys of two components more,
   * in byte order: what a person would call the folders that are not empty.
   */
  listGroups(prefix: string): Promise<readonly string[]>

  /** @returns false when there was no such key. When it resolves, the key does not come back after a crash. */
  delete(key: string): Promise<boolean>

  /** A changeable object (a ref), or undefined. */
  getVersioned(key: string): Promise<VersionedBytes | undefined>

  /**
   * Changes a ref if its version is still `expected` (undefined: if it does not exist; UNREADABLE: if it is there
   * and cannot be read); `bytes` undefined deletes it. Readers see the old or the new bytes, never a mixture, whatever crashes.
   *
   * @returns the new version (`deleted` after a deletion), or undefined when somebody else was first
   * @throws ERR_STORE_MEMBER when this process may not change refs
   */
  compareAndSwap(
    key: string,
    expected: string | undefined,
    bytes: Uint8Array | undefined,
  ): Promise<string | undefined>

  /** A local folder in which a file for `key` is written before `put`: made if missing, emptied at the next start. */
  stagingFolder(key: string): Promise<string>

  /** The path of a local file that holds exactly the object's bytes; undefined for an engine without such files. */
  localPath(key: string): string | undefined

  /** Bytes that may still be written; undefined where nobody can say. */
  freeBytes(): Promise<number | undefined>
}
