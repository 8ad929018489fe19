/**
 * Exports for tests: a buffer with known bytes whose replies are counted, and whose reads can be made to
 * wait, fail or stream.
 */
import type {
  ConnectionContext,
  ExportProvider,
  NbdExport,
  ReadReply,
} from '../../src/nbd/index.ts'
import { NbdOpenError } from '../../src/nbd/index.ts'

export function pattern(size: number): Buffer {
  const bytes = Buffer.alloc(size)
  for (let i = 0; i < size; i++) bytes[i] = (i * 31 + (i >>> 8) * 17 + (i >>> 16)) & 0xff
  return bytes
}

export interface HeldRead {
  readonly offset: number
  readonly length: number
  readonly reply: ReadReply
}

/** Counts what it lends out; `hold` keeps reads until the test answers them. */
export class TestExport implements NbdExport {
  readonly name: string = 'sha256:x'
  readonly description: string = 'a test'
  readonly multiConn: boolean = true
  readonly bytes: Buffer
  fast = false
  hold = false
  onRead: ((offset: number, length: number, reply: ReadReply) => void) | undefined
  onHeld: (() => void) | undefined
  readonly held: HeldRead[] = []
  readonly cached: [number, number][] = []
  sent = 0
  released = 0
  doubleReleases = 0
  opened = 0
  closed = 0
  /** Replies not released when close() was called. */
  unreleasedAtClose = 0

  constructor(bytes: Buffer) {
    this.bytes = bytes
  }

  get size(): number {
    return this.bytes.length
  }

  readInto(target: Buffer, at: number, offset: number, length: number): boolean {
    if (!this.fast) return false
    target.set(this.bytes.subarray(offset, offset + length), at)
    return true
  }

  read(offset: number, length: number, reply: ReadReply): void {
    if (this.onRead !== undefined) {
      this.onRead(offset, length, reply)
    } else if (this.hold) {
      this.held.push({ offset, length, reply })
      this.onHeld?.()
    } else {
      this.answer({ offset, length, reply })
    }
  }

  answer({ offset, length, reply }: HeldRead): void {
    reply.send([this.bytes.subarray(offset, offset + length)], this.lend())
  }

  /** A release function that counts. */
  lend(): () => void {
    this.sent++
    let done = false
    return () => {
      if (done) this.doubleReleases++
      done = true
      this.released++
    }
  }

  cache(offset: number, length: number): void {
    this.cached.push([offset, length])
  }

  close(): void {
    this.closed++
    this.unreleasedAtClose += this.sent - this.released
  }
}

/** Serves `target` under every one of the names, and as the default export. */
export function providerOf(target: TestExport, names: readonly string[] = ['x']): ExportProvider {
  return {
    async open(name: string, _context: ConnectionContext): Promise<NbdExport> {
      if (name === 'policy') throw new NbdOpenError('POLICY', 'not for you')
      if (name === 'crash') throw new TypeError('a bug')
      if (name !== '' && !names.includes(name))
        throw new NbdOpenError('UNKNOWN', `no export '${name}'`)
      target.opened++
      return target
    },
    async *list() {
      for (const name of names) yield { name, description: `about ${name}` }
    },
  }
}
