/**
 * The data directory itself: its format version, who may open it, and the sweep of unfinished work at
 * start. Objects are the engine's business.
 */
import * as fs from 'node:fs/promises'
import * as path from 'node:path'

import { AppError } from '../core/index.ts'
import { DirectoryLock } from './directory-lock.ts'
import { errnoOf, readError, writeError } from './errors.ts'
import { DOMAINS, FORMAT_FILE, FORMAT_VERSION, LOCK_FILE, UPLOADS } from './layout.ts'
import { Publisher } from './publication.ts'

/** The suffix of the format file while it is written. */
const NEW_SUFFIX = '.new'

/**
 * Opens a data directory for its owner: makes it if it is missing or empty, takes the lock, checks the
 * format, removes unfinished work.
 *
 * @throws ERR_STORE_LOCKED, ERR_STORE_FORMAT, ERR_STORE_WRITE_FAILED, ERR_STORE_FULL
 */
export async function openAsOwner(dataDir: string): Promise<DirectoryLock> {
  try {
    const made = await makeMissing(dataDir)
    // New folders are on disk before anything is acknowledged inside them.
    if (made === undefined) await settleName(dataDir)
    else await new Publisher(path.dirname(made)).makeFolder(dataDir)
    await refuseForeignFolder(dataDir)
  } catch (error) {
    throw unusable(dataDir, error)
  }
  const lock = DirectoryLock.acquire(path.join(dataDir, LOCK_FILE))
  if (lock === undefined) {
    throw new AppError('ERR_STORE_LOCKED', `${dataDir} is in use by another process`, {
      hint: 'stop the server that uses this data directory, or name another one with --data',
      details: { dataDir },
    })
  }
  try {
    await ensureFormat(dataDir)
    await sweepUploads(dataDir)
    return lock
  } catch (error) {
    lock[Symbol.dispose]()
    throw error
  }
}

/** Checks that the directory is a store that this version reads. @throws ERR_STORE_FORMAT */
export async function openAsMember(dataDir: string): Promise<void> {
  if ((await readFormat(dataDir)) === undefined) {
    throw new AppError('ERR_STORE_FORMAT', `${dataDir} is not a store: it has no ${FORMAT_FILE}`)
  }
}

/**
 * Makes a folder and those above it that are missing, each once: what mkdir does by itself with `recursive`
 * never ends where a folder cannot have children, as below /proc.
 *
 * @returns the first folder that was made, if any
 */
async function makeMissing(dataDir: string): Promise<string | undefined> {
  const missing: string[] = []
  for (let at = dataDir; ; at = path.dirname(at)) {
    const kind = await kindOf(at)
    if (kind === 'other') {
      throw new AppError('ERR_STORE_FORMAT', `${at} is a file, a directory was expected`, {
        hint: 'name a new or empty directory with --data',
      })
    }
    if (kind === 'folder' || at === path.dirname(at)) break
    missing.unshift(at)
  }
  for (const folder of missing) {
    try {
      await fs.mkdir(folder, { mode: 0o700 })
    } catch (error) {
      // Somebody else was faster.
      if (errnoOf(error) !== 'EEXIST' || (await kindOf(folder)) !== 'folder') throw error
    }
  }
  return missing[0]
}

async function kindOf(target: string): Promise<'folder' | 'other' | undefined> {
  try {
    return (await fs.stat(target)).isDirectory() ? 'folder' : 'other'
  } catch (error) {
    const errno = errnoOf(error)
    // ENOTDIR: something above it is a file, and is found on the way up.
    if (errno === 'ENOENT' || errno === 'ENOTDIR') return undefined
    throw error
  }
}

function unusable(dataDir: string, error: unknown): AppError {
  const { code, message, hint } = writeError(error, `to the data directory ${dataDir}`)
  return new AppError(code, message, {
    hint: hint ?? 'name a directory that this user may write to with --data',
    cause: error,
  })
}

/**
 * A folder that was there may have been made a moment ago, by a start that was killed. Its parent may be closed to
 * us, or be on a disk that cannot be written: then whoever made the folder answers for it.
 */
async function settleName(dataDir: string): Promise<void> {
  try {
    await new Publisher(path.dirname(dataDir)).settle(path.dirname(dataDir))
  } catch (error) {
    const errno = errnoOf(error) ?? ''
    if (!['EACCES', 'EPERM', 'EROFS', 'EINVAL'].includes(errno)) throw error
  }
}

/** A folder of something else is never turned into a store. */
async function refuseForeignFolder(dataDir: string): Promise<void> {
  const names = await fs.readdir(dataDir)
  const ours = [
    FORMAT_FILE,
    FORMAT_FILE + NEW_SUFFIX,
    LOCK_FILE,
    `${LOCK_FILE}-journal`,
    'lost+found',
  ]
  if (names.includes(FORMAT_FILE) || names.every((name) => ours.includes(name))) return
  throw new AppError(
    'ERR_STORE_FORMAT',
    `${dataDir} is not a store and not empty: it has ${names.length} other entries and no ${FORMAT_FILE}`,
    { hint: 'name a new or empty directory with --data' },
  )
}

async function ensureFormat(dataDir: string): Promise<void> {
  if ((await readFormat(dataDir)) !== undefined) return
  const publisher = new Publisher(dataDir)
  const target = path.join(dataDir, FORMAT_FILE)
  try {
    // Left by a start that was interrupted; we hold the lock.
    await fs.rm(target + NEW_SUFFIX, { force: true })
    await publisher.stage(
      target + NEW_SUFFIX,
      Buffer.from(`${JSON.stringify({ format: FORMAT_VERSION })}\n`),
    )
    await publisher.link(target + NEW_SUFFIX, target)
  } catch (error) {
    throw writeError(error, target)
  }
}

/** The format version; undefined when there is none yet. @throws ERR_STORE_FORMAT */
async function readFormat(dataDir: string): Promise<number | undefined> {
  const file = path.join(dataDir, FORMAT_FILE)
  let text: string
  try {
    text = await fs.readFile(file, 'utf8')
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined
    throw readError(error, file)
  }
  let format: unknown
  try {
    format = (JSON.parse(text) as { format?: unknown } | null)?.format
  } catch {
    // Said below, with the file's name.
  }
  if (format === FORMAT_VERSION) return format
  throw new AppError(
    'ERR_STORE_FORMAT',
    `${file} says format ${JSON.stringify(format)}, expected ${FORMAT_VERSION}`,
    { hint: 'the store was written by another version of commonpage' },
  )
}

/** Whatever was not finished when the last owner stopped. */
async function sweepUploads(dataDir: string): Promise<void> {
  const domains = path.join(dataDir, DOMAINS)
  try {
    for (const domain of await namesIn(domains)) {
      const uploads = path.join(domains, domain, UPLOADS)
      for (const name of await namesIn(uploads)) {
        await fs.rm(path.join(uploads, name), { recursive: true, force: true })
      }
    }
  } catch (error) {
    throw writeError(error, domains)
  }
}

/** Names in a folder; none when it is not there. */
export async function namesIn(folder: string): Promise<string[]> {
  try {
    return await fs.readdir(folder)
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return []
    throw error
  }
}
