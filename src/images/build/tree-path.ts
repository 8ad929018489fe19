/** Paths of archive entries: bytes as strings of one character each, cut into names. */
import { imageError } from '../errors.ts'

const MAX_NAME_BYTES = 255
/** Directories in each other. The kernel's longest path has half as many. */
export const MAX_DEPTH = 4096
/** Linux: PATH_MAX, without its NUL. */
const MAX_TARGET_BYTES = 4095

/** Names from the root on; none for the root itself. @throws ERR_IMPORT_TREE for `..`, NUL and long names */
export function namesOf(path: Uint8Array): string[] {
  const names = latin1(path)
    .split('/')
    .filter((name) => name !== '' && name !== '.')
  if (names.length > MAX_DEPTH) throw badPath(path, `has more than ${MAX_DEPTH} names`)
  for (const name of names) {
    if (name === '..') throw badPath(path, `leads out of the archive`)
    if (name.includes('\0')) throw badPath(path, 'has a NUL')
    if (name.length > MAX_NAME_BYTES) {
      throw badPath(
        path,
        `has a name of ${name.length} bytes, at most ${MAX_NAME_BYTES} are possible`,
      )
    }
  }
  return names
}

/** @throws ERR_IMPORT_TREE for a target that no symbolic link can have */
export function checkTarget(path: Uint8Array, target: Uint8Array): void {
  if (target.byteLength === 0 || target.byteLength > MAX_TARGET_BYTES || target.includes(0)) {
    throw badPath(
      path,
      `is a symbolic link of ${target.byteLength} bytes, 1 to ${MAX_TARGET_BYTES} are possible`,
    )
  }
}

export function badPath(path: Uint8Array | string, what: string): Error {
  const shown = typeof path === 'string' ? path : latin1(path)
  return imageError('ERR_IMPORT_TREE', `'${printable(shown)}' ${what}`)
}

/** One character for each byte. */
export function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')
}

const SHOWN_CHARACTERS = 200

function printable(path: string): string {
  const text = Buffer.from(path, 'latin1').toString('utf8')
  return text.length > SHOWN_CHARACTERS ? `${text.slice(0, SHOWN_CHARACTERS)}…` : text
}
