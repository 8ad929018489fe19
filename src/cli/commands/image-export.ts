/**
 * `image export`: an image as files that mount, fsck.erofs and mkfs.erofs take: one that holds all of it, or one for
 * each device.
 */
import { parseRef } from '../../core/index.ts'
import type { Digest } from '../../core/index.ts'
import { download } from '../api/download.ts'
import type { Download } from '../api/download.ts'
import { getImage, imagePath } from '../api/routes.ts'
import type { Invocation } from '../invocation.ts'
import { parseProgressMode, Progress } from '../render/progress.ts'
import { shortRef } from '../render/text.ts'

export interface ImageExportOptions {
  readonly devices?: boolean
  readonly progress: string
}

export async function runImageExport(
  invocation: Invocation,
  refText: string,
  file: string,
  options: ImageExportOptions,
): Promise<void> {
  const { client, context, output } = invocation
  const ref = parseRef(refText)
  const image = await getImage(client, ref)
  // The tag may move meanwhile: all devices are of one image.
  const path = imagePath({ domain: ref.domain, name: ref.name, digest: image.digest as Digest })
  const devices = image.devices.map(({ sizeBytes, digest }, index): Download => ({
    from: `${path}/-/dev/${index}`,
    to: index === 0 ? file : `${file}.${index}`,
    sizeBytes,
    digest: digest as Digest,
  }))
  const whole: Download = {
    from: `${path}/-/raw`,
    to: file,
    sizeBytes: image.sizeBytes,
    digest: undefined,
  }
  const isOne = options.devices !== true && image.devices.length > 1
  const downloads = isOne ? [whole] : devices
  const mode = output.quiet ? 'none' : parseProgressMode(options.progress)
  const progress = new Progress({ mode, stream: context.stderr })
  try {
    for (const each of downloads) {
      progress.start(`writing ${each.to}`, each.sizeBytes)
      await download(client, each, (bytes) => progress.update(bytes))
      progress.finish()
    }
  } catch (error) {
    progress.clear()
    throw error
  }
  const files = downloads.map(({ to, sizeBytes }) => ({ file: to, sizeBytes }))
  if (invocation.json) return output.printJson({ ref: image.ref, digest: image.digest, files })
  const names = files.map(({ file: name }) => name).join(', ')
  const hint = files.length === 1 ? `\nmount -t erofs -o ro,loop ${file} DIR` : ''
  await output.print(`${shortRef(image.ref)} is in ${names}${hint}`)
}
