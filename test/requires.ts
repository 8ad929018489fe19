/**
 * What a test needs from the machine. `test('…', { skip: missing('nbdinfo', 'root', '/dev/fuse') }, …)` skips
 * with the reason where something is absent; with REQUIRE_ALL=1 (continuous integration) the test file fails
 * to load instead, so that nothing is left out silently.
 *
 * Names: a command (`nbdinfo`), a path that must be readable and writable (`/dev/fuse`), `root`, a kernel
 * file system (`erofs`), `loop` (loop devices) or `nbd` (the kernel's NBD client).
 */
import { spawnSync } from 'node:child_process'
import { accessSync, constants, readFileSync } from 'node:fs'

import { findCommand, packageOf } from '../scripts/debian-packages.ts'

const FILE_SYSTEMS = new Set(['erofs', 'fuse', 'overlay', 'tmpfs'])

/**
 * The reason why a test cannot run here, or false: made for node:test's `skip` option.
 * @throws Error instead of giving a reason when REQUIRE_ALL=1.
 */
export function missing(...names: readonly string[]): string | false {
  const reasons = names.map(whyMissing).filter((reason) => reason !== undefined)
  if (reasons.length === 0) return false
  const reason = reasons.join('; ')
  if (process.env['REQUIRE_ALL'] === '1') {
    throw new Error(`REQUIRE_ALL=1 and this machine lacks: ${reason}`)
  }
  return reason
}

function whyMissing(name: string): string | undefined {
  if (name === 'root') {
    return process.getuid?.() === 0 ? undefined : 'needs root'
  }
  if (name.startsWith('/')) {
    return isAccessible(name) ? undefined : `needs read and write access to ${name}`
  }
  if (name === 'loop') {
    return isAccessible('/dev/loop-control') ? undefined : 'needs loop devices (/dev/loop-control)'
  }
  if (name === 'nbd') {
    return isAccessible('/dev/nbd0') ? undefined : 'needs the nbd kernel module (modprobe nbd)'
  }
  if (FILE_SYSTEMS.has(name)) {
    return hasFileSystem(name) ? undefined : `needs a kernel with the ${name} file system`
  }
  if (findCommand(name) !== undefined) return undefined
  const from = packageOf(name)
  return from === undefined
    ? `needs the command ${name}`
    : `needs ${name} (Debian package ${from.name})`
}

function isAccessible(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK)
    return true
  } catch {
    return false
  }
}

/** A module that is not loaded yet counts: mounting loads it. */
function hasFileSystem(name: string): boolean {
  const listed = readFileSync('/proc/filesystems', 'utf8')
    .split('\n')
    .some((line) => line.endsWith(`\t${name}`))
  if (listed) return true
  const modprobe = findCommand('modprobe')
  return modprobe !== undefined && spawnSync(modprobe, ['--dry-run', '--quiet', name]).status === 0
}
