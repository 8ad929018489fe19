/**
 * Completes package-lock.json. Tools with native parts name one optional package per platform; npm leaves
 * those that it could not look up out of the lock file, and `npm ci` then refuses the file everywhere. This
 * adds them by name, version and platform, so that each machine fetches only its own. Run it after npm
 * changed the lock file: `npm run lock`. It resolves nothing itself and changes no existing entry.
 */
import { readFileSync, writeFileSync } from 'node:fs'

interface LockEntry {
  readonly version?: string
  readonly dev?: boolean
  readonly optional?: boolean
  readonly os?: readonly string[]
  readonly cpu?: readonly string[]
  readonly libc?: readonly string[]
  readonly optionalDependencies?: Readonly<Record<string, string>>
}

export interface LockFile {
  readonly packages: Readonly<Record<string, LockEntry>>
}

export interface MissingEntry {
  readonly name: string
  readonly version: string
  /** The package that names it. */
  readonly parent: string
}

const EXACT_VERSION = /^\d+\.\d+\.\d+(?:-[\w.]+)?$/
const SYSTEMS = ['android', 'darwin', 'freebsd', 'linux', 'openharmony', 'win32']
const PROCESSORS = ['arm64', 'arm', 'ia32', 'ppc64', 'riscv64', 's390x', 'x64']

/** Optional dependencies that the lock file names but has no entry for. */
export function missingEntries(lock: LockFile): MissingEntry[] {
  const missing = new Map<string, MissingEntry>()
  for (const [parent, entry] of Object.entries(lock.packages)) {
    for (const [name, version] of Object.entries(entry.optionalDependencies ?? {})) {
      if (!isLocked(lock, parent, name)) missing.set(name, { name, version, parent })
    }
  }
  return [...missing.values()]
}

/** Node's resolution: the parent's own node_modules, then each folder above. */
function isLocked(lock: LockFile, parent: string, name: string): boolean {
  for (let folder = parent; ; folder = folder.slice(0, folder.lastIndexOf('/node_modules/'))) {
    if (`${folder}/node_modules/${name}` in lock.packages) return true
    if (!folder.includes('/node_modules/')) return `node_modules/${name}` in lock.packages
  }
}

/** @throws Error for a version range or a name that does not tell its platform: nothing is guessed. */
export function completeLock(lock: LockFile): LockFile {
  const packages: Record<string, LockEntry> = { ...lock.packages }
  for (const { name, version, parent } of missingEntries(lock)) {
    if (!EXACT_VERSION.test(version)) {
      throw new Error(`${name}@${version}, named by ${parent}, is not an exact version`)
    }
    packages[`node_modules/${name}`] = {
      version,
      ...platformOf(name),
      ...(lock.packages[parent]?.dev === true ? { dev: true } : {}),
      optional: true,
    }
  }
  const sorted = Object.entries(packages).toSorted(([a], [b]) => a.localeCompare(b, 'en'))
  return { ...lock, packages: Object.fromEntries(sorted) }
}

function platformOf(name: string): Pick<LockEntry, 'os' | 'cpu' | 'libc'> {
  const words = name.split(/[/-]/)
  const os = SYSTEMS.find((system) => words.includes(system))
  const cpu = PROCESSORS.find((processor) => words.includes(processor))
  if (os === undefined || cpu === undefined) {
    throw new Error(`the name ${name} does not say which system and processor it is for`)
  }
  const last = words.at(-1) ?? ''
  if (last.startsWith('musl')) return { cpu: [cpu], libc: ['musl'], os: [os] }
  if (last.startsWith('gnu')) return { cpu: [cpu], libc: ['glibc'], os: [os] }
  return { cpu: [cpu], os: [os] }
}

if (import.meta.main) {
  const file = new URL('../package-lock.json', import.meta.url)
  const lock = JSON.parse(readFileSync(file, 'utf8')) as LockFile
  const added = missingEntries(lock)
  writeFileSync(file, `${JSON.stringify(completeLock(lock), null, 2)}\n`)
  console.log(`package-lock.json: ${added.length} platform packages added`)
}
