/**
 * What this machine needs to open exports as disks: kernel modules and tools. A server needs none of it, so
 * nothing here fails.
 */
import { access, readdir, readFile } from 'node:fs/promises'
import { release } from 'node:os'

import { findProgram } from '../programs.ts'
import type { Finding } from './finding.ts'
import { ok, warn } from './finding.ts'

type Environment = Readonly<Record<string, string | undefined>>

export async function checkClient(env: Environment): Promise<Finding[]> {
  return [
    await checkErofs(),
    await checkNbd(),
    await checkTool(env, 'nbd-client', 'attaches an export as /dev/nbdN', 'nbd-client'),
    await checkTool(
      env,
      'nbdfuse',
      'shows an export as a file, without the nbd module',
      'libnbd-bin',
    ),
    await checkTool(env, 'tar', 'reads the directories that are imported', 'tar'),
  ]
}

async function checkErofs(): Promise<Finding> {
  const filesystems = await readFile('/proc/filesystems', 'utf8').catch(() => '')
  if (/\berofs$/m.test(filesystems)) return ok('erofs', `the kernel has it (${release()})`)
  if (await moduleExists('erofs')) {
    return warn('erofs', 'a module that is not loaded; mount loads it', '`sudo modprobe erofs`')
  }
  return warn(
    'erofs',
    'this kernel does not have it',
    'mount elsewhere; the server needs no kernel support',
  )
}

async function checkNbd(): Promise<Finding> {
  if (await exists('/sys/module/nbd')) return ok('nbd', 'the module is loaded')
  if (await moduleExists('nbd')) {
    return warn('nbd', 'a module that is not loaded', '`sudo modprobe nbd`')
  }
  return warn('nbd', 'this kernel does not have it', 'use nbdfuse or a virtual machine')
}

async function checkTool(
  env: Environment,
  tool: string,
  purpose: string,
  debian: string,
): Promise<Finding> {
  const path = await findProgram(tool, env)
  if (path !== undefined) return ok(tool, path)
  return warn(tool, `not found: it ${purpose}`, `\`sudo apt-get install ${debian}\``)
}

async function moduleExists(name: string): Promise<boolean> {
  const root = `/lib/modules/${release()}`
  const builtin = await readFile(`${root}/modules.builtin`, 'utf8').catch(() => '')
  if (builtin.includes(`/${name}.ko`)) return true
  const folder = name === 'erofs' ? `${root}/kernel/fs/erofs` : `${root}/kernel/drivers/block`
  const files = await readdir(folder).catch(() => [])
  return files.some((file) => file.startsWith(`${name}.ko`))
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}
