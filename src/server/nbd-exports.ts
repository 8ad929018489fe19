/**
 * Shows images, devices, files and blobs as NBD exports: names are resolved when a client opens them, and
 * a connection keeps what it opened. Bytes go from the page cache's frames to the library as they are.
 */
import type { ConnectionContext, ExportProvider, NbdExport, ReadReply } from 'nbd-server-ts'
import { NbdOpenError } from 'nbd-server-ts'

import type { AppError } from '../core/index.ts'
import { formatSize, isAppError } from '../core/index.ts'
import type { DataHandle } from '../images/index.ts'
import type { ExportTarget } from './export-name.ts'
import { encodePath, parseExportName } from './export-name.ts'
import type { ControlPlane, DataPlane } from './planes.ts'

/** Names asked of main at a time: the library reads on until its limit. */
const LIST_PAGE = 500

export interface NbdExportsOptions {
  readonly data: DataPlane
  readonly control: Pick<ControlPlane, 'images'>
  /** What the empty export name means; without it the empty name is unknown. */
  readonly defaultExport?: string
  /** A page that could not be served: the client has been told EIO. */
  readonly onReadError: (error: unknown, exportName: string) => void
  /** An export that exists could not be opened through no fault of the client, who has been refused. */
  readonly onOpenError: (error: unknown, exportName: string) => void
}

/** What an open export consists of. */
interface Opened {
  readonly name: string
  readonly description: string
  readonly handle: DataHandle
  readonly multiConn: boolean
  readonly owner: Disposable
}

export class NbdExports implements ExportProvider {
  readonly #options: NbdExportsOptions

  constructor(options: NbdExportsOptions) {
    this.#options = options
  }

  async open(name: string, _context: ConnectionContext): Promise<NbdExport> {
    const { defaultExport, onReadError, onOpenError } = this.#options
    const asked = name === '' ? defaultExport : name
    if (asked === undefined) {
      throw new NbdOpenError('UNKNOWN', 'this server has no default export, expected a name.')
    }
    try {
      return new HandleExport(await this.#open(parseExportName(asked), asked), onReadError)
    } catch (error) {
      if (!isAppError(error)) throw error
      const refusal = refusalOf(error)
      if (refusal === 'PLATFORM') onOpenError(error, asked)
      throw new NbdOpenError(refusal, sentenceOf(error))
    }
  }

  async *list(_context: ConnectionContext): AsyncGenerator<{ name: string; description: string }> {
    let cursor: string | undefined
    do {
      const page = await this.#options.control.images({
        limit: LIST_PAGE,
        ...(cursor === undefined ? {} : { cursor }),
      })
      for (const image of page.images) {
        yield {
          name: image.ref,
          description: `EROFS image, ${formatSize(image.sizeBytes)}, ${image.digest}`,
        }
      }
      cursor = page.nextCursor
    } while (cursor !== undefined)
  }

  async #open(target: ExportTarget, asked: string): Promise<Opened> {
    if (target.kind === 'blob') {
      const blob = await this.#options.data.openBlob(target.domain, target.digest)
      return {
        name: `${target.domain}/-/blobs/${target.digest}`,
        description: `blob, ${formatSize(blob.size)}`,
        handle: blob.open(),
        multiConn: true,
        owner: blob,
      }
    }
    const view = await this.#options.data.openImage(target.ref)
    try {
      const base = `${target.ref.domain}/${target.ref.name}@${view.digest}`
      const multiConn = target.ref.digest !== undefined
      switch (target.kind) {
        case 'image':
          return {
            name: base,
            description: `image ${asked}`,
            handle: view.openFlattened(),
            multiConn,
            owner: view,
          }
        case 'device':
          return {
            name: `${base}/-/dev/${target.device}`,
            description: `device ${target.device} of ${asked}, ${view.deviceDigest(target.device)}`,
            handle: view.openDevice(target.device),
            multiConn,
            owner: view,
          }
        case 'file': {
          const file = await view.openFile(target.path)
          return {
            name: `${base}/-/files/${encodePath(target.path)}`,
            description: `file of ${asked}`,
            handle: file.handle,
            multiConn,
            owner: view,
          }
        }
      }
    } catch (error) {
      view[Symbol.dispose]()
      throw error
    }
  }
}

/** One connection's open export. */
class HandleExport implements NbdExport {
  readonly name: string
  readonly description: string
  readonly size: number
  readonly multiConn: boolean
  readonly #handle: DataHandle
  readonly #owner: Disposable
  readonly #onReadError: (error: unknown, exportName: string) => void

  constructor(opened: Opened, onReadError: (error: unknown, exportName: string) => void) {
    this.name = opened.name
    this.description = opened.description
    this.size = opened.handle.size
    this.multiConn = opened.multiConn
    this.#handle = opened.handle
    this.#owner = opened.owner
    this.#onReadError = onReadError
  }

  readInto(target: Buffer, targetOffset: number, offset: number, length: number): boolean {
    return this.#handle.readInto(target, targetOffset, offset, length)
  }

  read(offset: number, length: number, reply: ReadReply): void {
    const handle = this.#handle
    if (length > handle.pinBudgetBytes) {
      reply.stream(this.#pieces(offset, length, reply.aborted))
      return
    }
    const lease = handle.tryRead(offset, length)
    if (lease) reply.send(lease.parts, () => lease.release())
    else void this.#readCold(offset, length, reply)
  }

  cache(offset: number, length: number): void {
    this.#handle.prefetch(offset, length)
  }

  close(): void {
    this.#handle[Symbol.dispose]()
    this.#owner[Symbol.dispose]()
  }

  async #readCold(offset: number, length: number, reply: ReadReply): Promise<void> {
    try {
      const lease = await this.#handle.read(offset, length, { signal: reply.aborted })
      reply.send(lease.parts, () => lease.release())
    } catch (error) {
      if (!reply.aborted.aborted) this.#onReadError(error, this.name)
      const errno = isAppError(error) ? (error.definition?.nbd ?? 'EIO') : 'EIO'
      reply.fail(errno, error instanceof Error ? `${error.message}.` : 'read failed.')
    }
  }

  async *#pieces(offset: number, length: number, signal: AbortSignal) {
    try {
      for await (const lease of this.#handle.stream(offset, length, { signal })) {
        yield { parts: lease.parts, release: () => lease.release() }
      }
    } catch (error) {
      if (!signal.aborted) this.#onReadError(error, this.name)
      throw error
    }
  }
}

/** NBD proto: "Option reply types". What is not the client's doing is the platform's. */
function refusalOf(error: AppError): 'PLATFORM' | 'POLICY' | 'UNKNOWN' {
  const status = error.definition?.http ?? 500
  if (status >= 500) return 'PLATFORM'
  return status === 403 ? 'POLICY' : 'UNKNOWN'
}

function sentenceOf({ message, hint }: AppError): string {
  return hint === undefined ? `${message}.` : `${message}; ${hint}.`
}
