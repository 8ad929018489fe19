/** The image that all contenders serve: EROFS of a seeded tree, in memory (/dev/shm), made once a run. */
import { mkdtemp, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'

import { makeTree } from '../../test/e2e/trees.ts'
import { runOk } from '../../test/e2e/server-process.ts'

export interface BenchImage extends AsyncDisposable {
  readonly folder: string
  readonly path: string
  readonly sizeBytes: number
}

/** About `files` × 12 KiB. Page cache that no process maps may be dropped early, so it lies in a tmpfs. */
export async function benchImage(files: number): Promise<BenchImage> {
  const folder = await mkdtemp('/dev/shm/commonpage-bench-')
  const tree = join(folder, 'tree')
  const path = join(folder, 'image.erofs')
  await runOk('mkdir', [tree])
  await makeTree(tree, { seed: 20_230_101, files, largestBytes: 2_000_000 })
  await runOk('mkfs.erofs', ['-T', '1700000000', path, tree])
  await rm(tree, { recursive: true })
  return {
    folder,
    path,
    sizeBytes: (await stat(path)).size,
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }),
  }
}
