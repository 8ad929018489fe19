/**
 * Which device is which, as far as the image's device table can tell: a slot may carry a tag, free text that
 * writers fill with the sha256 of the device (as hex) or, where the device is an EROFS image itself, with its
 * UUID. Sizes are import-devices.ts. Devices of equal size without such a tag cannot be told apart.
 */
import type { Digest } from '../../core/index.ts'
import { hexOf, isAppError } from '../../core/index.ts'
import type { ErofsImage } from '../../erofs/index.ts'
import { openErofs } from '../../erofs/index.ts'
import type { DeviceReader } from './device-reader.ts'
import { wrongDevices } from './import-devices.ts'

/** In lower case, as writers print it. */
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

interface Identity {
  readonly sha256: string
  /** Of a device that is an EROFS image. */
  readonly uuid: string | undefined
}

/**
 * Refuses devices that the tags show to be in another order. A tag that no device answers to proves nothing:
 * what writers put there differs.
 *
 * @param digests of all devices, the primary first
 * @returns what the user should know: a tag that looks like a UUID, and a device with another one
 * @throws ERR_IMPORT_DEVICES, ERR_IMPORT_SOURCE
 */
export async function checkIdentities(
  image: ErofsImage,
  reader: DeviceReader,
  digests: readonly Digest[],
): Promise<readonly string[]> {
  if (image.addressing !== 'separate') return []
  const tags = image.devices.map(({ tag }) => Buffer.from(tag).toString('latin1').toLowerCase())
  if (tags.every((tag) => tag === '')) return []
  const identities: Identity[] = []
  for (const digest of digests.slice(1)) {
    const uuid = await uuidOf(reader, identities.length + 1)
    identities.push({ sha256: hexOf(digest), uuid })
  }
  const notes: string[] = []
  for (const [index, identity] of identities.entries()) {
    const tag = tags[index] ?? ''
    if (answersTo(identity, tag)) continue
    const owner = tags.findIndex(
      (other, slot) => answersTo(identity, other) && !answersTo(identities[slot], other),
    )
    const elsewhere = owner >= 0 ? owner : tags.findIndex((other) => answersTo(identity, other))
    if (owner >= 0 || (elsewhere >= 0 && tag !== '')) {
      throw wrongDevices(
        `device ${index + 1} is the one that the image expects as device ${elsewhere + 1} (${tags[elsewhere]})` +
          (tag === '' ? '' : `, as device ${index + 1} it expects ${tag}`),
      )
    }
    if (UUID.test(tag) && identity.uuid !== undefined) {
      notes.push(`device ${index + 1} has the uuid ${identity.uuid}, the device table says ${tag}`)
    }
  }
  return notes
}

function answersTo(identity: Identity | undefined, tag: string): boolean {
  return tag !== '' && (identity?.sha256 === tag || identity?.uuid === tag)
}

/** Undefined for a device that is no EROFS image, and for one without a UUID. */
async function uuidOf(reader: DeviceReader, index: number): Promise<string | undefined> {
  try {
    const { superblock } = await openErofs(reader.source(index))
    const hex = Buffer.from(superblock.uuid).toString('hex')
    if (/^0*$/.test(hex)) return undefined
    return [8, 12, 16, 20, 32]
      .map((end, part) => hex.slice([0, 8, 12, 16, 20][part], end))
      .join('-')
  } catch (error) {
    if (isAppError(error) && error.code.startsWith('ERR_EROFS_')) return undefined
    throw error
  }
}
