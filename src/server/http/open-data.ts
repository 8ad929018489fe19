/**
 * Opens what a data URL names: an image's view, a file in it, a device, or a blob, together with what HTTP
 * says about it. It owns the views it opens and knows nothing of requests or sockets.
 */
import type { Digest } from '../../core/index.ts'
import { AppError } from '../../core/index.ts'
import type { DataHandle, ImageView } from '../../images/index.ts'
import type { DataPlane } from '../planes.ts'
import type { DataTarget } from './data-target.ts'
import type { Representation } from './representation.ts'
import { describe } from './representation.ts'

/** An open target; disposing gives the handle and the image back. */
export class OpenData implements Disposable {
  readonly representation: Representation
  readonly handle: DataHandle
  readonly #owner: Disposable
  #users = 1

  constructor(representation: Representation, handle: DataHandle, owner: Disposable) {
    this.representation = representation
    this.handle = handle
    this.#owner = owner
  }

  /** Another response uses it; each retain needs one dispose. */
  retain(): this {
    this.#users++
    return this
  }

  [Symbol.dispose](): void {
    if (--this.#users > 0) return
    this.handle[Symbol.dispose]()
    this.#owner[Symbol.dispose]()
  }
}

export interface OpenOptions {
  readonly publicCaching: boolean
  readonly signal?: AbortSignal
}

type ImageTarget = Exclude<DataTarget, { kind: 'blob' }>

/** @throws ERR_IMAGE_NOT_FOUND, ERR_BLOB_NOT_FOUND, ERR_HTTP_*, and what the image's files give */
export async function openData(
  plane: DataPlane,
  target: Exclude<DataTarget, { kind: 'file' }>,
  options: OpenOptions,
): Promise<OpenData> {
  if (target.kind === 'blob') {
    const blob = await plane.openBlob(target.domain, target.digest, signalOf(options))
    const representation = describe({
      size: blob.size,
      etag: `"${blob.digest}"`,
      immutable: true,
      publicCaching: options.publicCaching,
      digest: blob.digest,
    })
    return new OpenData(representation, blob.open(), blob)
  }
  const view = await plane.openImage(target.ref, signalOf(options))
  return disposeOnError(view, () =>
    target.kind === 'raw' ? openRaw(view, target, options) : openDevice(view, target, options),
  )
}

/** Opens a file of an open view, and takes the view over. */
export async function openFile(
  view: ImageView,
  target: Extract<DataTarget, { kind: 'file' }>,
  options: OpenOptions,
): Promise<OpenData> {
  const file = await view.openFile(target.path)
  const representation = describe({
    size: file.handle.size,
    etag: file.etag,
    immutable: target.ref.digest !== undefined,
    publicCaching: options.publicCaching,
    fileName: baseName(target.path),
  })
  return new OpenData(representation, file.handle, view)
}

function openRaw(view: ImageView, target: ImageTarget, options: OpenOptions): OpenData {
  const handle = view.openFlattened()
  const representation = describe({
    size: handle.size,
    etag: view.rawEtag,
    immutable: target.ref.digest !== undefined,
    publicCaching: options.publicCaching,
    ...(view.deviceCount === 1 ? { digest: view.deviceDigest(0) } : {}),
  })
  return new OpenData(representation, handle, view)
}

function openDevice(
  view: ImageView,
  target: Extract<DataTarget, { kind: 'device' }>,
  options: OpenOptions,
): OpenData {
  if (target.device >= view.deviceCount) throw noDevice(target.device, view)
  const digest: Digest = view.deviceDigest(target.device)
  const handle = view.openDevice(target.device)
  const representation = describe({
    size: handle.size,
    etag: `"${digest}"`,
    immutable: target.ref.digest !== undefined,
    publicCaching: options.publicCaching,
    digest,
  })
  return new OpenData(representation, handle, view)
}

function disposeOnError<T>(view: ImageView, open: () => T): T {
  try {
    return open()
  } catch (error) {
    view[Symbol.dispose]()
    throw error
  }
}

function noDevice(device: number, view: ImageView): AppError {
  return new AppError(
    'ERR_DEVICE_NOT_FOUND',
    `image ${view.digest} has no device ${device}, it has ${view.deviceCount}`,
    { hint: 'devices are numbered from 0, the one that holds the metadata' },
  )
}

function signalOf(options: OpenOptions): { signal?: AbortSignal } {
  return options.signal === undefined ? {} : { signal: options.signal }
}

/** The last name of a path, as far as it is ASCII: it only selects a media type. */
function baseName(path: Uint8Array): string {
  const text = Buffer.from(path.buffer, path.byteOffset, path.byteLength).toString('latin1')
  return text.slice(text.lastIndexOf('/') + 1)
}
