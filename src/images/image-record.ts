/**
 * The canonical record of an image, whose sha256 is the image's digest: sizes and digests of its devices
 * and their origin, nothing that depends on a server, a time or the way the bytes are stored. Pure: bytes
 * in, bytes out (docs/format/store.md).
 */
import type { Digest } from '../core/index.ts'
import { isDigest } from '../core/index.ts'
import { imageError } from './errors.ts'

export const IMAGE_RECORD_TYPE = 'application/vnd.commonpage.image.v1+json'

/** EROFS counts devices with 16 bits (erofs_fs.h: extra_devices), the primary comes on top. */
export const MAX_DEVICES = 65_536

export interface DeviceRecord {
  /** Bytes. */
  readonly size: number
  /** sha256 of the device's bytes. */
  readonly sha256: Digest
  /**
   * Byte of the flattened view where the device starts, as the image's own device table says. Absent for
   * the primary (0) and for devices without a unified address, which are not in the flattened view.
   */
  readonly unifiedOffset?: number
}

export interface ImageRecord {
  /** The primary first. */
  readonly devices: readonly DeviceRecord[]
  readonly origin: Readonly<Record<string, unknown>>
  /** Of an OCI image: its platform, and what runs in a container of it (image specification, "config"). */
  readonly oci?: Readonly<Record<string, unknown>>
}

/** The bytes that are hashed and stored: JSON with sorted keys, no spaces, no line end. */
export function encodeImageRecord(record: ImageRecord): Buffer {
  return Buffer.from(
    canonicalJson({
      mediaType: IMAGE_RECORD_TYPE,
      devices: record.devices,
      origin: record.origin,
      oci: record.oci,
    }),
  )
}

/** Unknown fields are passed over: a later version may add some. @throws ERR_IMAGE_RECORD_INVALID */
export function decodeImageRecord(bytes: Uint8Array, digest: Digest): ImageRecord {
  let value: unknown
  try {
    value = JSON.parse(Buffer.from(bytes).toString('utf8'))
  } catch (error) {
    throw imageError('ERR_IMAGE_RECORD_INVALID', `image record ${digest} is not JSON`, {
      cause: error,
    })
  }
  if (!isObject(value) || value['mediaType'] !== IMAGE_RECORD_TYPE) {
    throw invalid(digest, `its mediaType is not ${IMAGE_RECORD_TYPE}`)
  }
  const { devices, origin, oci } = value
  if (!Array.isArray(devices) || devices.length < 1 || devices.length > MAX_DEVICES) {
    throw invalid(digest, `it does not have 1 to ${MAX_DEVICES} devices`)
  }
  if (!isObject(origin)) throw invalid(digest, 'it has no origin')
  if (oci !== undefined && !isObject(oci)) throw invalid(digest, 'its oci is no object')
  return {
    devices: devices.map((device: unknown) => decodeDevice(device, digest)),
    origin,
    ...(oci === undefined ? {} : { oci }),
  }
}

function decodeDevice(value: unknown, digest: Digest): DeviceRecord {
  if (!isObject(value)) throw invalid(digest, 'a device is not an object')
  const { size, sha256, unifiedOffset } = value
  if (!isSize(size) || size === 0 || typeof sha256 !== 'string' || !isDigest(sha256)) {
    throw invalid(digest, 'a device has no size or no sha256')
  }
  if (unifiedOffset === undefined) return { size, sha256 }
  if (!isSize(unifiedOffset)) throw invalid(digest, 'a device has an impossible unifiedOffset')
  return { size, sha256, unifiedOffset }
}

function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, each: unknown) =>
    isObject(each)
      ? Object.fromEntries(Object.entries(each).toSorted(([a], [b]) => (a < b ? -1 : 1)))
      : each,
  )
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isSize(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}

function invalid(digest: Digest, why: string): Error {
  return imageError('ERR_IMAGE_RECORD_INVALID', `image record ${digest}: ${why}`)
}
