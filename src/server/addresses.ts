/**
 * Where a server listens: whether an address is free before the workers share it, and what is said when it is
 * not. Listening itself is the workers'.
 */
import { lstat, unlink } from 'node:fs/promises'
import { connect, createServer } from 'node:net'

import { AppError } from '../core/index.ts'
import type { ListenAddress } from './config.ts'
import { formatAddress } from './config.ts'

/**
 * Makes sure that nobody listens on a TCP address. Workers listen with SO_REUSEPORT, with which the kernel would
 * let a second server of the same user in and give it every other connection; a plain bind finds the first one.
 * @param setting the flag that chooses the address
 * @throws ERR_SERVER_LISTEN
 */
export async function requireFree(address: ListenAddress, setting: string): Promise<void> {
  if (address.port === 0) return
  const probe = createServer()
  const bound = Promise.withResolvers<void>()
  probe.once('error', (error) => bound.reject(listenError(error, formatAddress(address), setting)))
  probe.listen({ ...address, exclusive: true }, bound.resolve)
  await bound.promise
  await new Promise<void>((resolve) => {
    probe.close(() => resolve())
  })
}

/**
 * Removes a Unix socket that a server which was killed has left; one that somebody answers on stays.
 * @throws ERR_SERVER_LISTEN
 */
export async function clearSocketPath(path: string): Promise<void> {
  try {
    const found = await lstat(path)
    if (!found.isSocket()) throw errno('EEXIST', 'it is a file, not a socket')
    if (await answers(path)) throw errno('EADDRINUSE', 'somebody listens there')
    await unlink(path)
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw listenError(error, path, '--nbd-socket')
  }
}

/** ERR_SERVER_LISTEN of what Node says, with what the user can do. */
export function listenError(error: unknown, where: string, setting: string): AppError {
  const code = codeOf(error)
  const { why, hint } = REASONS[code ?? ''] ?? {
    why: error instanceof Error ? error.message : String(error),
    hint: `choose another address with ${setting}`,
  }
  return new AppError('ERR_SERVER_LISTEN', `cannot listen on ${where} (${setting}): ${why}`, {
    hint: hint.replace('FLAG', setting),
    cause: error,
  })
}

interface Reason {
  readonly why: string
  readonly hint: string
}

const TAKEN: Reason = {
  why: 'another program listens there',
  hint: 'stop it, or choose another address with FLAG; port 0 takes a free one',
}
const NOT_HERE: Reason = {
  why: 'it is no address of this machine',
  hint: 'FLAG takes an address of this machine, for example 127.0.0.1 or 0.0.0.0',
}
const FORBIDDEN: Reason = {
  why: 'the system does not allow it',
  hint: 'ports below 1024 and foreign folders need privileges: choose another address with FLAG',
}

const REASONS: Readonly<Record<string, Reason>> = {
  EADDRINUSE: TAKEN,
  EACCES: FORBIDDEN,
  EPERM: FORBIDDEN,
  EADDRNOTAVAIL: NOT_HERE,
  EAFNOSUPPORT: NOT_HERE,
  ENOTFOUND: NOT_HERE,
  EAI_AGAIN: NOT_HERE,
  EEXIST: { why: 'there is a file that is no socket', hint: 'choose another path with FLAG' },
  ENOENT: { why: 'its folder does not exist', hint: 'make the folder, or choose a path with FLAG' },
  ENOTDIR: { why: 'its folder is a file', hint: 'choose another path with FLAG' },
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect(path)
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', (error) => {
      if (codeOf(error) === 'ECONNREFUSED') resolve(false)
      else reject(error)
    })
  })
}

function errno(code: string, message: string): Error {
  return Object.assign(new Error(message), { code })
}

function codeOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string'
    ? error.code
    : undefined
}
