/**
 * What `/-/files/PATH` names: bytes for a regular file, a page of entries for a directory, metadata when
 * `?stat` asks. Names are bytes; in JSON they are percent-encoded where they are not UTF-8.
 */
import { Type } from 'typebox'
import type { Static } from 'typebox'

import { isAppError } from '../../../core/index.ts'
import type { FileStatus, ImageView } from '../../../images/index.ts'
import { encodePath } from '../../export-name.ts'
import type { DataPlane } from '../../planes.ts'
import type { DataTarget } from '../data-target.ts'
import { DEFAULT_PAGE, MAX_PAGE } from '../limits.ts'
import type { OpenData, OpenOptions } from '../open-data.ts'
import { openFile } from '../open-data.ts'
import { cacheControl } from '../representation.ts'
import type { DirectoryListing, FileStat } from '../schemas.ts'

export const FilesQuery = Type.Object({
  stat: Type.Optional(
    Type.String({
      description: 'present: metadata of the entry itself, a final symlink is not followed',
    }),
  ),
  cursor: Type.Optional(
    Type.String({
      description: 'nextCursor of the page before',
      pattern: '^[A-Za-z0-9_-]{1,400}$',
    }),
  ),
  limit: Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: MAX_PAGE,
      description: `entries of a page, ${DEFAULT_PAGE} by default`,
    }),
  ),
})
export type FilesQuery = Static<typeof FilesQuery>

type FileTarget = Extract<DataTarget, { kind: 'file' }>

/** An answer that is no bytes of the image. */
export interface JsonAnswer {
  readonly body: DirectoryListing | FileStat
  readonly cacheControl: string
  /** To be disposed when the answer has been given. */
  readonly owner: Disposable
}

/** @throws ERR_IMAGE_NOT_FOUND, ERR_IMAGE_NOT_PARSED, ERR_FILE_* and what reading the image's metadata gives */
export async function openPath(
  plane: DataPlane,
  target: FileTarget,
  query: FilesQuery,
  options: OpenOptions,
): Promise<OpenData | JsonAnswer> {
  const signal = options.signal === undefined ? {} : { signal: options.signal }
  const view = await plane.openImage(target.ref, signal)
  try {
    const caching = cacheControl(target.ref.digest !== undefined, options.publicCaching)
    if (query.stat !== undefined) {
      const info = await view.stat(target.path, { followLast: false })
      return { body: describeStat(target, info), cacheControl: caching, owner: view }
    }
    const data = target.wantsDirectory ? undefined : await openIfFile(view, target, options)
    if (data !== undefined) return data
    return { body: await listDirectory(view, target, query), cacheControl: caching, owner: view }
  } catch (error) {
    view[Symbol.dispose]()
    throw error
  }
}

/** The file's bytes, or undefined when the path names a directory. */
async function openIfFile(
  view: ImageView,
  target: FileTarget,
  options: OpenOptions,
): Promise<OpenData | undefined> {
  try {
    return await openFile(view, target, options)
  } catch (error) {
    if (isAppError(error) && error.code === 'ERR_FILE_IS_DIRECTORY') return undefined
    throw error
  }
}

async function listDirectory(
  view: ImageView,
  target: FileTarget,
  query: FilesQuery,
): Promise<DirectoryListing> {
  const page = await view.readDirectory(target.path, {
    limit: query.limit ?? DEFAULT_PAGE,
    ...(query.cursor === undefined ? {} : { after: Buffer.from(query.cursor, 'base64url') }),
  })
  return {
    path: encodePath(target.path),
    entries: page.entries.map(({ name, info }) => ({
      name: encodePath(name),
      type: info.type,
      sizeBytes: info.size,
      mode: octal(info.mode),
    })),
    ...(page.next === undefined
      ? {}
      : { nextCursor: Buffer.from(page.next).toString('base64url') }),
  }
}

function describeStat(target: FileTarget, info: FileStatus): FileStat {
  const { mtimeSeconds, mtimeNanoseconds, rdev } = info
  return {
    path: encodePath(target.path),
    type: info.type,
    sizeBytes: info.size,
    mode: octal(info.mode),
    uid: info.uid,
    gid: info.gid,
    nlink: info.nlink,
    mtime: formatTime(mtimeSeconds),
    mtimeNanoseconds: String(BigInt(mtimeSeconds) * 1_000_000_000n + BigInt(mtimeNanoseconds)),
    inode: String(info.nid),
    ...(info.target === undefined ? {} : { target: encodePath(info.target) }),
    ...(rdev === undefined ? {} : { rdev: [rdev.major, rdev.minor] }),
    xattrs: Object.fromEntries(
      info.xattrs.map(({ name, value }) => [encodePath(name), Buffer.from(value).toString('hex')]),
    ),
    ...(info.etag === undefined ? {} : { etag: info.etag }),
  }
}

/** Permission bits with setuid, setgid and sticky: `0755`. */
function octal(mode: number): string {
  return `0${(mode & 0o7777).toString(8).padStart(3, '0')}`
}

/** The seconds that RFC 3339 can write: years 0 to 9999. Images may claim others. */
const FIRST_SECOND = Date.parse('0000-01-01T00:00:00Z') / 1000
const LAST_SECOND = Date.parse('9999-12-31T23:59:59Z') / 1000

function formatTime(seconds: number): string {
  const clamped = Math.min(Math.max(seconds, FIRST_SECOND), LAST_SECOND)
  return new Date(clamped * 1000).toISOString().replace('.000Z', 'Z')
}
