/** A small file system of its own for a test, with room that the test decides to the byte. Needs root. */
import { execFileSync } from 'node:child_process'
import { mkdir, rm, statfs, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

import { dataFolder } from './data-folder.ts'

export interface SmallDisk extends AsyncDisposable {
  readonly path: string
  /** Bytes that can be written. */
  freeBytes(): Promise<number>
  /** Takes everything but so many bytes, rounded up to whole pages. */
  leaveFree(bytes: number): Promise<void>
  /** Lets so many files, folders and links be added. */
  leaveInodes(count: number): Promise<void>
  /** Gives back what `leaveFree` and `leaveInodes` took. */
  clear(): Promise<void>
}

export async function smallDisk(size: string): Promise<SmallDisk> {
  const folder = await dataFolder()
  const path = join(folder.path, 'disk')
  const filler = join(path, 'filler')
  await mkdir(path)
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', path])
  const freeBytes = async (): Promise<number> => {
    const { bavail, bsize } = await statfs(path)
    return bavail * bsize
  }
  const limitInodes = (count: number): void => {
    execFileSync('mount', ['-o', `remount,nr_inodes=${count}`, path])
  }
  const { files: inodes } = await statfs(path)
  return {
    path,
    freeBytes,
    async leaveFree(bytes) {
      await rm(filler, { force: true })
      const taken = (await freeBytes()) - bytes
      await writeFile(filler, Buffer.alloc(Math.max(0, taken)))
    },
    async leaveInodes(count) {
      const { files, ffree } = await statfs(path)
      limitInodes(files - ffree + count)
    },
    async clear() {
      await rm(filler, { force: true })
      limitInodes(inodes)
    },
    async [Symbol.asyncDispose]() {
      execFileSync('umount', ['-l', path])
      await folder[Symbol.asyncDispose]()
    },
  }
}
