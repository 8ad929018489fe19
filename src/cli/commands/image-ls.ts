/** `image ls`: the images of the store, as a table or as an array. */
import { formatSize } from '../../core/index.ts'
import type { Image } from '../../server/http/schemas.ts'
import { unknownDomain } from '../api/domains.ts'
import { listImages, MAX_LISTED_IMAGES } from '../api/routes.ts'
import type { Invocation } from '../invocation.ts'
import { deviceBytesOf } from '../render/image-size.ts'
import { renderTable } from '../render/table.ts'
import type { Column } from '../render/table.ts'
import { formatCount, relativeTime, shortDigestOf, shortRef } from '../render/text.ts'

export interface ImageLsOptions {
  readonly domain?: string
}

function columns(now: number): readonly Column<Image>[] {
  return [
    { header: 'image', value: (image) => shortRef(image.ref) },
    { header: 'digest', value: (image) => shortDigestOf(image.digest) },
    { header: 'logical', value: (image) => formatSize(image.logicalBytes), align: 'right' },
    { header: 'size', value: (image) => formatSize(deviceBytesOf(image)), align: 'right' },
    { header: 'inodes', value: (image) => formatCount(image.inodes), align: 'right' },
    { header: 'devices', value: (image) => String(image.devices.length), align: 'right' },
    { header: 'filesystem', value: (image) => image.filesystem },
    { header: 'updated', value: (image) => relativeTime(image.updatedAt, now) },
  ]
}

export async function runImageLs(invocation: Invocation, options: ImageLsOptions): Promise<void> {
  const { output } = invocation
  const images: Image[] = []
  for await (const image of listImages(invocation.client, options.domain)) images.push(image)
  if (invocation.json) return output.printJson(images)
  if (images.length === 0) {
    const { domain } = options
    const unknown =
      domain === undefined ? undefined : await unknownDomain(invocation.client, domain)
    output.say(
      unknown ??
        (domain === undefined
          ? 'no images yet: `commonpage import erofs FILE DOMAIN/NAME` brings the first, `commonpage demo` shows how'
          : `no images in the domain ${domain}: \`commonpage import erofs FILE ${domain}/NAME\` brings one`),
    )
    return
  }
  await output.print(renderTable(columns(Date.now()), images, { style: output.style }))
  if (images.length >= MAX_LISTED_IMAGES) {
    output.say(`only the first ${formatCount(images.length)} are listed; --domain narrows the list`)
  }
}
