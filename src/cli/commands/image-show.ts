/** `image show`: everything that is known of one image, and how to open it. */
import { formatSize, parseRef } from '../../core/index.ts'
import type { Image } from '../../server/http/schemas.ts'
import { getImage, listImages } from '../api/routes.ts'
import type { Invocation } from '../invocation.ts'
import { deviceBytesOf } from '../render/image-size.ts'
import { renderFields, renderTable } from '../render/table.ts'
import type { Style } from '../render/style.ts'
import { escapeName, formatCount, relativeTime, shortDigestOf } from '../render/text.ts'

export async function runImageShow(invocation: Invocation, refText: string): Promise<void> {
  const { output } = invocation
  const image = await getImage(invocation.client, parseRef(refText))
  if (invocation.json) return output.printJson(image)
  const tags = image.tag === undefined ? await tagsOf(invocation, image) : []
  await output.print(renderImage(image, output.style, Date.now(), tags))
}

/** Who asks by digest may not know what the image is called. */
async function tagsOf({ client }: Invocation, image: Image): Promise<string[]> {
  const tags: string[] = []
  for await (const { ref, digest } of listImages(client, image.domain)) {
    if (digest === image.digest) tags.push(ref)
  }
  return tags
}

function showBytes(bytes: number): string {
  return `${formatSize(bytes)} (${formatCount(bytes)} bytes)`
}

/** What people ask for first; --json has the rest. */
function ociFields(oci: Image['oci']): (readonly [string, string | undefined])[] {
  if (oci === undefined) return []
  const { platform, config } = oci
  const fields = typeof config === 'object' && config !== null ? { ...config } : {}
  const shown = Object.entries(fields).flatMap(([key, value]): [string, string][] => {
    const name = SHOWN_CONFIG.get(key)
    return name === undefined ? [] : [[name, escapeName(showConfig(value))]]
  })
  return [['platform', typeof platform === 'string' ? escapeName(platform) : undefined], ...shown]
}

const SHOWN_CONFIG: ReadonlyMap<string, string> = new Map([
  ['Entrypoint', 'entrypoint'],
  ['Cmd', 'command'],
  ['User', 'user'],
  ['WorkingDir', 'directory'],
])

function showConfig(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value)
}

export function renderImage(
  image: Image,
  style: Style,
  now: number,
  tags: readonly string[] = [],
): string {
  const origin = Object.entries(image.origin).map(
    ([key, value]) => `${escapeName(key)}=${escapeName(String(value))}`,
  )
  const deviceBytes = deviceBytesOf(image)
  const fields = renderFields(
    [
      ['image', image.ref],
      ['tags', tags.length === 0 ? undefined : tags.join(', ')],
      ['digest', image.digest],
      ['logical', showBytes(image.logicalBytes)],
      ['size', showBytes(deviceBytes)],
      // Devices without a unified address are not in it, and there may be gaps between those that are.
      ['flattened', image.sizeBytes === deviceBytes ? undefined : showBytes(image.sizeBytes)],
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
      ...ociFields(image.oci),
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
