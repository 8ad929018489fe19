/**
 * Whether the devices that were given are those that an EROFS image names, and where they lie in the
 * flattened view. It reads the superblock and the device table, nothing else.
 */
import type { Digest } from '../../core/index.ts'
import { formatSize, isAppError } from '../../core/index.ts'
import type { ErofsImage } from '../../erofs/index.ts'
import { openErofs } from '../../erofs/index.ts'
import { imageError } from '../errors.ts'
import type { DeviceRecord } from '../image-record.ts'
import type { DeviceReader } from './device-reader.ts'

/** Opened, or why it could not be. */
export type OpenedDevices = { readonly image: ErofsImage } | { readonly reason: string }

/** @throws ERR_IMPORT_DEVICES when the image can be read and names other devices, or is not the first of them */
export async function openDevices(reader: DeviceReader): Promise<OpenedDevices> {
  const sizes = reader.devices.map((device) => device.size)
  let image: ErofsImage
  try {
    image = await openErofs(reader.source(0), {
      deviceCount: sizes.length,
      extraDeviceSizes: sizes.slice(1),
    })
  } catch (error) {
    if (!isAppError(error) || !error.code.startsWith('ERR_EROFS_')) throw error
    const isNoImage = NO_IMAGE.has(error.code)
    const primary = await findPrimary(reader, isNoImage)
    if (error.code !== 'ERR_EROFS_DEVICE_COUNT' && primary === undefined) {
      return { reason: error.message }
    }
    const what = isNoImage ? `device 0 is no EROFS image (${error.message})` : error.message
    throw wrongDevices(primary === undefined ? what : `${what}, but ${primary}`, error)
  }
  if (image.addressing === 'separate') checkSlots(image, sizes)
  if (image.addressing === 'flattened') checkFlattened(image, sizes[0] ?? 0)
  return { image }
}

/** Bytes that are no EROFS image at all, as opposed to one that cannot be read. */
const NO_IMAGE: ReadonlySet<string> = new Set(['ERR_EROFS_BAD_MAGIC', 'ERR_EROFS_TRUNCATED'])

/**
 * The device that should have been given first: the one whose table names as many others as there are.
 *
 * @param orAnyImage the first device is no image: then any other that is one should be where it is
 * @returns which one, in words
 */
async function findPrimary(reader: DeviceReader, orAnyImage: boolean): Promise<string | undefined> {
  const others = reader.devices.length - 1
  let any: string | undefined
  for (let index = 1; index <= others; index++) {
    try {
      const { devices } = await openErofs(reader.source(index))
      const names = `device ${index} is an EROFS image that names ${devices.length} extra devices`
      if (devices.length === others) return `${names}: give it first`
      any ??= `${names}: give the image whose device table names the others first`
    } catch (error) {
      if (!isAppError(error) || !error.code.startsWith('ERR_EROFS_')) throw error
    }
  }
  return orAnyImage ? any : undefined
}

/** The record's devices, with the unified addresses that the image's table gives. */
export function deviceRecords(
  sizes: readonly number[],
  digests: readonly Digest[],
  image: ErofsImage | undefined,
): DeviceRecord[] {
  return digests.map((sha256, index) => {
    const size = sizes[index] ?? 0
    const slot = image?.addressing === 'separate' ? image.devices[index - 1] : undefined
    if (image === undefined || slot === undefined || slot.uniaddr === 0) return { size, sha256 }
    return { size, sha256, unifiedOffset: slot.uniaddr * image.superblock.blockSize }
  })
}

/** mkfs 1.5 leaves slots empty: then any size is right. */
function checkSlots(image: ErofsImage, sizes: readonly number[]): void {
  const { blockSize } = image.superblock
  for (const [index, slot] of image.devices.entries()) {
    const size = sizes[index + 1] ?? 0
    const fits = (bytes: number): boolean => Math.ceil(bytes / blockSize) === slot.blocks
    if (slot.blocks === 0 || fits(size)) continue
    const fitting = sizes.findIndex((other, device) => device > 0 && fits(other))
    throw wrongDevices(
      `device ${index + 1} has ${size} bytes, the image expects ` +
        `${slot.blocks} blocks of ${blockSize} (${formatSize(slot.blocks * blockSize)}) there` +
        (fitting < 0 ? '' : `: device ${fitting} has that size`),
    )
  }
}

/** One device is enough when all the others are inside of it, at their unified addresses. */
function checkFlattened(image: ErofsImage, size: number): void {
  const { blockSize } = image.superblock
  const count = image.devices.length
  for (const [index, slot] of image.devices.entries()) {
    const end = (slot.uniaddr + slot.blocks) * blockSize
    if (slot.uniaddr !== 0 && end <= size) continue
    throw wrongDevices(
      `the image needs ${count} extra ${count === 1 ? 'device' : 'devices'}, and none was given: ` +
        `device ${index + 1} is not inside the first ${formatSize(size)}`,
    )
  }
}

/** ERR_IMPORT_DEVICES. Device 0 is the image itself, the extra devices follow. */
export function wrongDevices(message: string, cause?: unknown): Error {
  return imageError('ERR_IMPORT_DEVICES', message, {
    hint: 'give the image first, then every extra device with --device, in the order of its device table',
    ...(cause === undefined ? {} : { cause }),
  })
}
