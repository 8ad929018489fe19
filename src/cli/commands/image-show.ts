/** `image show`: everything that is known of one image, and how to open it. */
import { formatSize, parseRef } from '../../core/index.ts'
import type { Image } from '../../server/http/schemas.ts'
import { getImage } from '../api/routes.ts'
import type { Invocation } from '../invocation.ts'
import { renderFields, renderTable } from '../render/table.ts'
import type { Style } from '../render/style.ts'
import { escapeName, formatCount, relativeTime, shortDigestOf } from '../render/text.ts'

export async function runImageShow(invocation: Invocation, refText: string): Promise<void> {
  const { output } = invocation
  const image = await getImage(invocation.client, parseRef(refText))
  if (invocation.json) return output.printJson(image)
  await output.print(renderImage(image, output.style, Date.now()))
}

export function renderImage(image: Image, style: Style, now: number): string {
  const origin = Object.entries(image.origin).map(
    ([key, value]) => `${escapeName(key)}=${escapeName(String(value))}`,
  )
  const fields = renderFields(
    [
      ['image', image.ref],
      ['digest', image.digest],
      ['size', `${formatSize(image.sizeBytes)} (${formatCount(image.sizeBytes)} bytes)`],
      [
        'filesystem',
        image.filesystem === 'erofs'
          ? 'erofs'
          : 'unknown: the bytes could not be parsed and are served whole',
      ],
      ['inodes', formatCount(image.inodes)],
      [
        'block size',
        image.blockSizeBytes === undefined ? undefined : formatSize(image.blockSizeBytes),
      ],
      ['features', image.features?.map(escapeName).join(', ')],
      ['updated', image.updatedAt && `${image.updatedAt} (${relativeTime(image.updatedAt, now)})`],
      ['origin', origin.length === 0 ? undefined : origin.join(', ')],
      ['NBD export', image.nbdExport],
    ],
    style,
  )
  const devices = renderTable(
    [
      { header: 'device', value: ({ index }) => String(index), align: 'right' },
      { header: 'digest', value: ({ device }) => shortDigestOf(device.digest) },
      { header: 'size', value: ({ device }) => formatSize(device.sizeBytes), align: 'right' },
      { header: 'extents', value: ({ device }) => formatCount(device.extents), align: 'right' },
    ],
    image.devices.map((device, index) => ({ device, index })),
    { style },
  )
  return `${fields}\n\n${devices}`
}
