/**
 * The contract between the server and whoever has bytes to serve: exports, the provider that opens them,
 * and the reply that a read is answered through. Types only, and the check of what a provider returned.
 */
import { NbdError } from './errors.ts'
import type { NbdErrno } from './protocol.ts'

/** What a client is told about an export. */
export interface ExportInfo {
  /** Canonical name (NBD_INFO_NAME). */
  readonly name: string
  /** NBD_INFO_DESCRIPTION, sent when given and asked for. */
  readonly description?: string
  /** Bytes; any integer up to 2^53 - 1. */
  readonly size: number
  /**
   * True when any number of connections that open this name see the same bytes at all times
   * (NBD_FLAG_CAN_MULTI_CONN). The Linux client refuses a second connection without it.
   */
  readonly multiConn: boolean
  /** Bytes, a power of two from 512 to 32 MiB; 4096 when absent. A hint: any byte range is served. */
  readonly preferredBlockSize?: number
}

/** One opened export, for one connection. */
export interface NbdExport extends ExportInfo {
  /**
   * Synchronous fast path for small reads (at most 16 KiB). When every byte of [offset, offset + length) is
   * at hand, copies them to `target` at `targetOffset` and returns true. Otherwise returns false; what it
   * wrote to that range until then does not matter. Must not throw, allocate or wait.
   */
  readInto?(target: Buffer, targetOffset: number, offset: number, length: number): boolean
  /**
   * Serves one read of `length` > 0 bytes inside the export: exactly one call of reply.send, reply.stream
   * or reply.fail, during the call or later. What it throws is answered as an error.
   */
  read(offset: number, length: number, reply: ReadReply): void
  /**
   * NBD_CMD_CACHE: start bringing the range, at most maxRequestBytes of what the client named, into memory and return
   * at once. Hints in excess are not passed on: eight of those that arrive together are.
   */
  cache?(offset: number, length: number): void
  /** Called once when the connection has ended; every reply was released before. */
  close(): void
}

/** Bytes that stay valid and unchanged until release() is called. */
export interface ReplyPiece {
  readonly parts: readonly Uint8Array[]
  readonly release: () => void
}

/** How one read is answered. Only the first of send, stream and fail counts. */
export interface ReadReply {
  /**
   * All bytes in order. Parts go to the socket as they are; replies of at most 16 KiB and pieces below
   * 4 KiB may be copied instead. `release` is called exactly once, when nothing refers to the parts any
   * more, possibly before send returns.
   */
  send(parts: readonly Uint8Array[], release: () => void): void
  /**
   * The bytes in pieces, for replies too large to hold at once. The next piece is asked for when the socket
   * has room. An error before the first piece is answered as an error reply; after it, structured replies
   * report it in a chunk of their own and simple replies cost the connection. When the connection ends, the
   * iterator's return() is called: at once while the stream waits for its turn, else when the piece that was asked for
   * last has come. `aborted` tells earlier.
   */
  stream(pieces: AsyncIterable<ReplyPiece>): void
  /** An error reply; the message reaches clients that negotiated structured replies. */
  fail(errno: NbdErrno, message: string): void
  /** Aborts when the connection is gone and the reply is of no use to anybody. Made on first use. */
  readonly aborted: AbortSignal
}

/** Who asks. */
export interface ConnectionContext {
  /** Counts up from 1 within a server. */
  readonly id: number
  /** Absent on Unix sockets and in-memory streams. */
  readonly peer?: { readonly address: string; readonly port: number }
  /** Aborts when the connection ends. */
  readonly signal: AbortSignal
}

export interface ExportProvider {
  /**
   * Opens an export; called at GO, EXPORT_NAME and INFO, never before. The empty name is the default export.
   * @throws NbdOpenError to refuse; any other error is answered as ERR_PLATFORM and reported to onError
   */
  open(name: string, context: ConnectionContext): Promise<NbdExport>
  /**
   * What INFO answers, when that is cheaper than open(). Without it INFO opens the export, and a GO for the
   * same name enters what was opened; with it, the two have to agree.
   */
  info?(name: string, context: ConnectionContext): Promise<ExportInfo>
  /** The names for LIST, read until the limit. Throw NbdOpenError to refuse. */
  list(context: ConnectionContext): AsyncIterable<{ name: string; description?: string }>
}

/** NBD proto: "Block size constraints": what a client assumes when told nothing. */
export const NBD_DEFAULT_PREFERRED_BLOCK = 4096
const MIN_PREFERRED_BLOCK = 512

/** @throws ERR_NBD_EXPORT when the properties cannot be told to a client. */
export function checkExportInfo(info: ExportInfo, maxRequestBytes: number): void {
  if (!Number.isSafeInteger(info.size) || info.size < 0) {
    throw new NbdError('ERR_NBD_EXPORT', `export '${info.name}' has size ${info.size}`)
  }
  const block = info.preferredBlockSize ?? NBD_DEFAULT_PREFERRED_BLOCK
  const isPowerOfTwo = Number.isInteger(Math.log2(block))
  if (!isPowerOfTwo || block < MIN_PREFERRED_BLOCK || block > maxRequestBytes) {
    throw new NbdError('ERR_NBD_EXPORT', `export '${info.name}' prefers blocks of ${block} bytes`)
  }
}
