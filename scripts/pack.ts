/**
 * Makes the npm package: builds, stages a folder in which both packages point at their JavaScript, and packs
 * it into commonpage-VERSION.tgz. In the checkout nbd-server-ts points at its TypeScript, and bundling takes
 * it from node_modules, where Node strips no types: hence the staging.
 *
 *   npm run package                        builds and writes the .tgz here
 *   npm run package -- --stage FOLDER      only fills FOLDER (the Dockerfile does)
 */
import { execFileSync } from 'node:child_process'
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'

import { build } from './build.ts'
import { ROOT } from './steps.ts'

const LIBRARY = 'nbd-server-ts'
/** Fields that say something about the checkout only. */
const CHECKOUT_FIELDS = ['workspaces', 'scripts', 'devDependencies', 'devEngines', 'allowScripts']

type Manifest = Record<string, unknown>

async function readManifest(file: string): Promise<Manifest> {
  return JSON.parse(await readFile(file, 'utf8')) as Manifest
}

async function writeManifest(folder: string, manifest: Manifest): Promise<void> {
  await writeFile(join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`)
}

/** Fills an empty folder with what the package holds. dist must be built. */
export async function stage(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true })
  const manifest = await readManifest(join(ROOT, 'package.json'))
  for (const field of CHECKOUT_FIELDS) Reflect.deleteProperty(manifest, field)
  await writeManifest(folder, manifest)
  const nbd = join(ROOT, 'dist', 'nbd')
  for (const path of manifest['files'] as string[]) {
    await cp(join(ROOT, path), join(folder, path), {
      recursive: true,
      filter: (source) => source !== nbd,
    })
  }
  await stageLibrary(join(folder, 'node_modules', LIBRARY), nbd)
}

async function stageLibrary(folder: string, dist: string): Promise<void> {
  await mkdir(folder, { recursive: true })
  const source = join(ROOT, 'src', 'nbd')
  const manifest = await readManifest(join(source, 'package.json'))
  manifest['exports'] = {
    '.': { types: './dist/index.d.ts', default: './dist/index.js' },
    './package.json': './package.json',
  }
  manifest['files'] = ['dist', 'README.md']
  Reflect.deleteProperty(manifest, 'devDependencies')
  await writeManifest(folder, manifest)
  await cp(dist, join(folder, 'dist'), { recursive: true })
  await cp(join(source, 'README.md'), join(folder, 'README.md'))
}

/** Packs a staged folder. @returns the path of the .tgz. */
export function pack(folder: string, destination: string): string {
  const args = ['pack', '--json', '--ignore-scripts', '--pack-destination', destination]
  const output = execFileSync('npm', args, { cwd: folder, encoding: 'utf8', env: npmEnvironment() })
  const packed: unknown = JSON.parse(output)
  // npm 11 prints a list; npm 12 an object by package name.
  const [entry] = Object.values(packed as Record<string, { filename: string }>)
  if (entry === undefined) throw new Error(`npm pack told no file name: ${output}`)
  return join(destination, entry.filename)
}

/** npm started by npm would take the outer project's folder for its own. */
export function npmEnvironment(): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(process.env).filter(
      ([name]) =>
        !/^(?:npm_(?:package|lifecycle|command)|npm_config_(?:local_)?prefix$|INIT_CWD)/.test(name),
    ),
  )
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { stage: { type: 'string' } } })
  if (!(await build())) {
    process.exitCode = 1
  } else if (values.stage === undefined) {
    const folder = await mkdtemp(join(tmpdir(), 'commonpage-package-'))
    await stage(folder)
    console.log(pack(folder, ROOT))
    await rm(folder, { recursive: true })
  } else {
    await stage(resolve(values.stage))
  }
}
