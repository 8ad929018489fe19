/**
 * The two images of the demo: a base, and the same base with an application. Built on the spot by the
 * machine's mkfs.erofs, with Debian's packages when it may, from images in the package otherwise.
 */
import { createReadStream, createWriteStream } from 'node:fs'
import { mkdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { fileURLToPath } from 'node:url'
import { createGunzip } from 'node:zlib'

import { formatSize } from '../../core/index.ts'
import { findProgram, runProgram } from '../programs.ts'
import { stageApplication, stageBase } from './stage-tree.ts'

type Environment = Readonly<Record<string, string | undefined>>

/** A mirror may be slow; somebody else's apt may run. */
const APT_TIMEOUT_MS = 180_000
const APT_LOCK_SECONDS = 120
const MKFS_TIMEOUT_MS = 60_000

export interface DemoImages {
  readonly base: string
  readonly application: string
}

export interface DemoImageOptions {
  /** Existing folder; the images and the tree are made in it. */
  readonly folder: string
  readonly env: Environment
  readonly signal: AbortSignal
  readonly say: (text: string) => void
}

export async function makeDemoImages(options: DemoImageOptions): Promise<DemoImages> {
  const mkfs = await findMkfs(options)
  if (mkfs !== undefined) {
    try {
      return await build(mkfs, options)
    } catch (error) {
      options.signal.throwIfAborted()
      options.say(`mkfs.erofs did not work (${messageOf(error)})`)
    }
  }
  options.say('using the two small images that come with commonpage')
  return unpackShipped(options)
}

/** COMMONPAGE_NO_MKFS shows, on any machine, what a machine without the program gets. */
async function findMkfs(options: DemoImageOptions): Promise<string | undefined> {
  if (options.env['COMMONPAGE_NO_MKFS'] !== undefined) return undefined
  return (await findProgram('mkfs.erofs', options.env)) ?? installMkfs(options)
}

async function installMkfs(options: DemoImageOptions): Promise<string | undefined> {
  const { env, signal, say } = options
  if (env['COMMONPAGE_NO_APT'] === '1') {
    say(
      'mkfs.erofs is not here, and COMMONPAGE_NO_APT forbids to install it: skipped building images',
    )
    return undefined
  }
  const apt = await findProgram('apt-get', env)
  if (apt === undefined) {
    say('mkfs.erofs is not here, and neither is apt-get to install it: skipped building images')
    return undefined
  }
  if (process.getuid?.() !== 0) {
    say(
      'mkfs.erofs is not here: skipped building images (`sudo apt-get install erofs-utils` brings it)',
    )
    return undefined
  }
  say('installing erofs-utils with apt-get, to build two images')
  const run = (args: readonly string[]): Promise<void> =>
    runProgram(apt, ['-q', '-o', `DPkg::Lock::Timeout=${APT_LOCK_SECONDS}`, ...args], {
      signal,
      timeoutMs: APT_TIMEOUT_MS,
      env: { ...env, DEBIAN_FRONTEND: 'noninteractive' },
    })
  try {
    await run(['update'])
    await run(['install', '-y', '--no-install-recommends', 'erofs-utils'])
    return await findProgram('mkfs.erofs', env)
  } catch (error) {
    signal.throwIfAborted()
    say(`apt-get did not work (${messageOf(error)}): skipped building images`)
    return undefined
  }
}

async function build(mkfs: string, options: DemoImageOptions): Promise<DemoImages> {
  const { folder, signal, say } = options
  const own = ownFiles()
  const tree = join(folder, 'tree')
  const base = join(folder, 'base.erofs')
  const application = join(folder, 'application.erofs')
  await mkdir(tree)
  const staged = await stageBase(tree, own, signal)
  await makeImage(mkfs, base, tree, options)
  const added = await stageApplication(tree, own, signal)
  await makeImage(mkfs, application, tree, options)
  say(
    `built demo/base:1 from ${staged.files} files of this machine (${formatSize(staged.sizeBytes)}), ` +
      `and demo/application:1, the same with ${added.files} files more (${formatSize(added.sizeBytes)})`,
  )
  return { base, application }
}

/** As stock as it gets: no option that changes the layout. */
async function makeImage(
  mkfs: string,
  image: string,
  tree: string,
  { env, signal }: DemoImageOptions,
): Promise<void> {
  await runProgram(mkfs, [image, tree], { signal, timeoutMs: MKFS_TIMEOUT_MS, env })
  await stat(image)
}

async function unpackShipped(options: DemoImageOptions): Promise<DemoImages> {
  return {
    base: await unpack('base', options),
    application: await unpack('application', options),
  }
}

/** images/README.md says how they were made. */
async function unpack(name: string, { folder, signal }: DemoImageOptions): Promise<string> {
  const packed = new URL(`images/${name}.erofs.gz`, import.meta.url)
  const image = join(folder, `${name}.erofs`)
  await pipeline(createReadStream(packed), createGunzip(), createWriteStream(image), { signal })
  return image
}

/** The folder of this program's own code: `src` of a checkout or `dist` of the package. */
function ownFiles(): string {
  return fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '')
}

function messageOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error)
  return text.trim().split('\n').slice(0, 2).join(' ')
}
