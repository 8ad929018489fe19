// oxlint-disable node/no-sync -- runs on fill threads, where a blocking read is the cheapest one
/**
 * A file that is read past the kernel's page cache where its file system allows it; where it does not,
 * that is said once and the file is read through the cache. Knows about alignment and nothing about
 * blobs. Synchronous: for fill threads.
 */
import * as fs from 'node:fs'

import { corrupt, errnoOf, readError } from './errors.ts'
import { STORE_BLOCK_BYTES } from './layout.ts'

/** The system calls, replaceable in tests. */
export interface ReadCalls {
  open(file: string, flags: number): number
  read(fd: number, targets: readonly Buffer[], position: number): number
}

const SYSTEM_CALLS: ReadCalls = {
  open: (file, flags) => fs.openSync(file, flags),
  read: (fd, targets, position) => fs.readvSync(fd, targets, position),
}

/** Shared by all files of a reader: which file systems take O_DIRECT. */
export class DirectPolicy {
  readonly calls: ReadCalls
  /** False: nothing is read directly. */
  readonly enabled: boolean
  readonly #onFallback: (errno: string, file: string) => void
  /** Devices (st_dev) that refuse. */
  readonly #refusing = new Set<number>()

  /** @param onFallback called once per file system that refuses */
  constructor(
    enabled: boolean,
    onFallback: (errno: string, file: string) => void,
    calls: ReadCalls = SYSTEM_CALLS,
  ) {
    // Not every operating system has the flag.
    this.enabled = enabled && fs.constants.O_DIRECT !== undefined
    this.#onFallback = onFallback
    this.calls = calls
  }

  isRefused(device: number): boolean {
    return this.#refusing.has(device)
  }

  refuse(device: number, errno: string, file: string): void {
    if (this.#refusing.has(device)) return
    this.#refusing.add(device)
    this.#onFallback(errno, file)
  }
}

export class DirectFile implements Disposable {
  readonly path: string
  /** Bytes when it was opened. */
  readonly size: number
  readonly #policy: DirectPolicy
  readonly #device: number
  #fd: number
  #direct: boolean

  /** @throws the operating system's error when the file cannot be opened */
  constructor(path: string, policy: DirectPolicy) {
    this.path = path
    this.#policy = policy
    const direct = policy.enabled ? openDirect(path, policy) : undefined
    this.#fd = direct ?? policy.calls.open(path, fs.constants.O_RDONLY)
    this.#direct = direct !== undefined
    const { size, dev } = fs.fstatSync(this.#fd)
    this.size = size
    this.#device = dev
    if (policy.enabled && direct === undefined) policy.refuse(dev, 'EINVAL', path)
    if (this.#direct && policy.isRefused(dev)) this.#reopenBuffered()
  }

  get isDirect(): boolean {
    return this.#direct
  }

  /**
   * Reads `length` bytes from `offset` over the targets, one after another, and zeroes what is left of
   * them. Direct reads need what the page source promises: `offset` and targets aligned to 4 KiB, target
   * sizes multiples of it.
   *
   * @throws ERR_STORE_CORRUPT when the file ends before that, ERR_STORE_READ_FAILED
   */
  read(offset: number, targets: readonly Buffer[], length: number): void {
    // Whole blocks, also behind the end of the file: a direct read takes no less.
    const rounded = Math.ceil(length / STORE_BLOCK_BYTES) * STORE_BLOCK_BYTES
    for (let done = 0; done < length;) {
      const count = this.#readSome(slice(targets, done, rounded), offset + done)
      if (count === 0) throw corrupt(this.path, `it ends before byte ${offset + length}`)
      done += count
    }
    for (const rest of slice(targets, length, Infinity)) rest.fill(0)
  }

  [Symbol.dispose](): void {
    if (this.#fd >= 0) fs.closeSync(this.#fd)
    this.#fd = -1
  }

  #readSome(targets: Buffer[], position: number): number {
    try {
      return this.#policy.calls.read(this.#fd, targets, position)
    } catch (error) {
      if (!this.#direct || errnoOf(error) !== 'EINVAL') throw readError(error, this.path)
    }
    // Some file systems open for direct reading and then refuse to read.
    try {
      this.#reopenBuffered()
      this.#policy.refuse(this.#device, 'EINVAL', this.path)
      return this.#policy.calls.read(this.#fd, targets, position)
    } catch (error) {
      throw readError(error, this.path)
    }
  }

  #reopenBuffered(): void {
    fs.closeSync(this.#fd)
    this.#fd = -1
    this.#direct = false
    this.#fd = this.#policy.calls.open(this.path, fs.constants.O_RDONLY)
  }
}

/** Undefined when the file system does not know O_DIRECT. */
function openDirect(path: string, policy: DirectPolicy): number | undefined {
  try {
    return policy.calls.open(path, fs.constants.O_RDONLY | fs.constants.O_DIRECT)
  } catch (error) {
    if (errnoOf(error) === 'EINVAL') return undefined
    throw error
  }
}

/** The parts of the targets that hold bytes [from, to) of their concatenation. */
function slice(targets: readonly Buffer[], from: number, to: number): Buffer[] {
  const parts: Buffer[] = []
  let start = 0
  for (const target of targets) {
    const end = start + target.byteLength
    if (end > from && start < to) {
      parts.push(target.subarray(Math.max(0, from - start), Math.min(to, end) - start))
    }
    start = end
  }
  return parts
}
