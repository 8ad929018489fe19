/**
 * A directory as a PAX archive, made by GNU tar while it is sent: it reads extended attributes and the holes of sparse
 * files, which Node cannot, and is on every Linux machine.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Dirent } from 'node:fs'
import { lstat, readdir, stat } from 'node:fs/promises'
import { basename, resolve } from 'node:path'
import type { Readable } from 'node:stream'

import { AppError } from '../../core/index.ts'
import type { SocketEntry } from '../../tar/index.ts'
import { encodeSocket } from '../../tar/index.ts'
import { findProgram, outputOfProgram } from '../programs.ts'
import type { BodySource } from './body-source.ts'
import { reasonOf, unreadable } from './body-source.ts'

type Environment = Readonly<Record<string, string | undefined>>

/** The order of the entries, and so the image, is the same each time; times of access and change are not in it. */
const ARGUMENTS = [
  '--create',
  '--file=-',
  '--format=pax',
  '--pax-option=delete=atime,delete=ctime',
  '--sort=name',
  '--numeric-owner',
  '--sparse',
  '--xattrs',
  '--xattrs-include=*',
]
const VERSION_TIMEOUT_MS = 10_000
const MAX_MESSAGE_CHARACTERS = 4000

/** @throws ERR_CLI_FILE_UNREADABLE, ERR_CLI_PROGRAM_MISSING */
export async function openDirectory(
  path: string,
  env: Environment,
  signal: AbortSignal,
): Promise<BodySource> {
  const status = await stat(path).catch((error: unknown) => {
    throw unreadable(path, reasonOf(error), error)
  })
  if (!status.isDirectory()) throw unreadable(path, 'it is not a directory')
  const program = await findGnuTar(env, signal)
  const sockets = await findSockets(path, signal)
  const child = spawn(program, [...ARGUMENTS, `--directory=${path}`, '.'], {
    env: { ...env, LC_ALL: 'C' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const messages = collectText(child.stderr)
  const ended = once(child, 'close') as Promise<[number | null, NodeJS.Signals | null]>
  // looked at when the archive was read
  ended.catch(() => undefined)
  return {
    name: basename(resolve(path)),
    sizeBytes: undefined,
    pieces: () => archiveOf(sockets, child.stdout, ended, path, messages),
    [Symbol.asyncDispose]: async () => {
      const isRunning =
        child.pid !== undefined && child.exitCode === null && child.signalCode === null
      if (!isRunning) return
      child.kill()
      await once(child, 'exit')
    },
  }
}

/** Sockets come first, because the archive's end is at its end. */
async function* archiveOf(
  sockets: readonly SocketEntry[],
  stdout: Readable,
  ended: Promise<[number | null, NodeJS.Signals | null]>,
  path: string,
  messages: () => string,
): AsyncGenerator<Buffer, void, void> {
  for (const socket of sockets) yield encodeSocket(socket)
  yield* stdout as AsyncIterable<Buffer>
  const [code, signalName] = await ended
  if (code === 0) return
  const said = messages().trim().split('\n').slice(0, 3).join('; ')
  // Exit code 1 of GNU tar: some files changed while they were read.
  throw new AppError(
    code === 1 ? 'ERR_CLI_FILE_CHANGED' : 'ERR_CLI_FILE_UNREADABLE',
    `${path} was not archived as a whole: ${said === '' ? `tar ended with ${code ?? signalName}` : said}`,
    { hint: 'nothing was imported; import a copy of it, or let nobody change it meanwhile' },
  )
}

/** What tar leaves out. @throws ERR_CLI_FILE_UNREADABLE */
async function findSockets(root: string, signal: AbortSignal): Promise<SocketEntry[]> {
  const start = Buffer.from(root)
  const sockets: SocketEntry[] = []
  const pending: Buffer[] = [EMPTY]
  for (let folder = pending.pop(); folder !== undefined; folder = pending.pop()) {
    signal.throwIfAborted()
    for (const entry of await entriesOf(folder.length === 0 ? start : pathOf(start, folder))) {
      const path = pathOf(folder, entry.name)
      if (entry.isDirectory()) pending.push(path)
      if (!entry.isSocket()) continue
      const status = await lstat(pathOf(start, path), { bigint: true })
      sockets.push({
        path,
        permissions: Number(status.mode) & 0o7777,
        uid: Number(status.uid),
        gid: Number(status.gid),
        mtimeNs: status.mtimeNs,
      })
    }
  }
  return sockets
}

const EMPTY = Buffer.alloc(0)
const SLASH = Buffer.from('/')

function pathOf(folder: Buffer, name: Buffer): Buffer {
  return folder.length === 0 ? name : Buffer.concat([folder, SLASH, name])
}

async function entriesOf(folder: Buffer): Promise<Dirent<Buffer>[]> {
  try {
    return await readdir(folder, { withFileTypes: true, encoding: 'buffer' })
  } catch (error) {
    throw unreadable(folder.toString(), reasonOf(error), error)
  }
}

async function findGnuTar(env: Environment, signal: AbortSignal): Promise<string> {
  for (const name of ['gtar', 'tar']) {
    const program = await findProgram(name, env)
    if (program === undefined) continue
    const options = { signal, timeoutMs: VERSION_TIMEOUT_MS }
    const version = await outputOfProgram(program, ['--version'], options)
    if (version.includes('GNU tar')) return program
  }
  throw new AppError('ERR_CLI_PROGRAM_MISSING', 'GNU tar is not here, which archives directories', {
    hint: 'install the package tar, or make an archive elsewhere and use `commonpage import tar`',
  })
}

/** The first words of a program. */
function collectText(stream: Readable): () => string {
  let text = ''
  stream.setEncoding('utf8')
  stream.on('data', (piece: string) => {
    if (text.length < MAX_MESSAGE_CHARACTERS) text += piece
  })
  return () => text
}
