/** `import oci`: sends an OCI layout or an archive of images to the server, which makes an image of one of them. */
import { stat } from 'node:fs/promises'

import { openLocalFile } from '../api/body-source.ts'
import { openDirectory } from '../api/directory-source.ts'
import { importArchive } from '../api/import.ts'
import type { ImportOptions } from '../import-runner.ts'
import { runImport } from '../import-runner.ts'
import type { Invocation } from '../invocation.ts'

export interface ImportOciOptions extends ImportOptions {
  readonly platform?: string
}

/** @param source LAYOUT[:TAG]: a directory, or an archive as podman, skopeo and docker write it */
export async function runImportOci(
  invocation: Invocation,
  source: string,
  ref: string,
  options: ImportOciOptions,
): Promise<void> {
  const { client, context, signal } = invocation
  const { path, tag, isDirectory } = await locate(source)
  const parameters = {
    format: 'oci-archive',
    ...(tag === undefined ? {} : { tag }),
    ...(options.platform === undefined ? {} : { platform: options.platform }),
  }
  await runImport(invocation, ref, options, async (parsed, progress) => {
    await using archive = isDirectory
      ? await openDirectory(path, context.env, signal)
      : await openLocalFile(path)
    return await importArchive(client, parsed, parameters, archive, progress)
  })
}

/** What is there as a whole has no tag; otherwise the tag is behind the last colon. */
async function locate(
  source: string,
): Promise<{ readonly path: string; readonly tag?: string; readonly isDirectory: boolean }> {
  const whole = await stat(source).catch(() => undefined)
  if (whole !== undefined) return { path: source, isDirectory: whole.isDirectory() }
  const colon = source.lastIndexOf(':')
  const path = colon > 0 ? source.slice(0, colon) : source
  const status = await stat(path).catch(() => undefined)
  const tag = colon > 0 ? { tag: source.slice(colon + 1) } : {}
  return { path, ...tag, isDirectory: status?.isDirectory() === true }
}
