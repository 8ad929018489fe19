/** Mounts images with the Linux kernel's own EROFS, read-only, from loop devices. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface Mounted {
  readonly folder: string
  [Symbol.dispose](): void
}

/** A folder that goes with everything in it. */
export function temporaryFolder(): Mounted {
  const folder = mkdtempSync(join(tmpdir(), 'commonpage-erofs-'))
  return {
    folder,
    [Symbol.dispose]() {
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

/** The primary device first. The mount and its loop devices end with the result. */
export function mountFiles(files: readonly string[]): Mounted {
  const undo: (() => void)[] = []
  const cleanUp = (): void => {
    for (let step = undo.pop(); step !== undefined; step = undo.pop()) step()
  }
  try {
    const loops = files.map((file) => {
      const loop = run('losetup', ['--find', '--show', '--read-only', file]).trim()
      undo.push(() => run('losetup', ['--detach', loop]))
      return loop
    })
    const folder = mkdtempSync(join(tmpdir(), 'commonpage-mount-'))
    undo.push(() => {
      rmdirSync(folder)
    })
    const options = ['ro', ...loops.slice(1).map((loop) => `device=${loop}`)].join(',')
    run('mount', ['-t', 'erofs', '-o', options, loops[0] ?? '', folder])
    undo.push(() => run('umount', [folder]))
    return { folder, [Symbol.dispose]: cleanUp }
  } catch (error) {
    cleanUp()
    throw error
  }
}

export function mountBytes(devices: readonly Uint8Array[], into: string): Mounted {
  const files = devices.map((bytes, index) => {
    const file = join(into, `device${index}`)
    writeFileSync(file, bytes)
    return file
  })
  return mountFiles(files)
}

/** Standard output; throws with standard error when the command fails. */
export function run(command: string, args: readonly string[]): string {
  return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
}
