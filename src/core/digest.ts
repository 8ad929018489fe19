/**
 * sha256 digests: the textual form `sha256:HEX` (OCI image-spec, "Digests") and the 32 raw bytes. The
 * only file that knows both.
 */
import { hash } from 'node:crypto'

import { AppError } from './errors.ts'

export type Digest = `sha256:${string}`

export const DIGEST_BYTES = 32
const PATTERN = /^sha256:[0-9a-f]{64}$/

export function isDigest(text: string): text is Digest {
  return PATTERN.test(text)
}

/** @throws ERR_DIGEST_INVALID */
export function parseDigest(text: string): Digest {
  if (isDigest(text)) return text
  throw new AppError(
    'ERR_DIGEST_INVALID',
    `'${text}' is not a digest, expected sha256: and 64 lower-case hex digits`,
  )
}

/** sha256 of the bytes, in one call. 64 KiB take about 40 µs: hash more than that off the hot threads. */
export function digestOf(bytes: Uint8Array): Digest {
  return `sha256:${hash('sha256', bytes, 'hex')}`
}

/** The 32 raw bytes of sha256(bytes). */
export function rawDigestOf(bytes: Uint8Array): Buffer {
  return hash('sha256', bytes, 'buffer')
}

export function digestFromRaw(raw: Uint8Array): Digest {
  return `sha256:${Buffer.from(raw.buffer, raw.byteOffset, DIGEST_BYTES).toString('hex')}`
}

export function digestToRaw(digest: Digest): Buffer {
  return Buffer.from(digest.slice(7), 'hex')
}

/** The 64 hex digits. */
export function hexOf(digest: Digest): string {
  return digest.slice(7)
}

/** First 12 hex digits, for people. */
export function shortDigest(digest: Digest): string {
  return digest.slice(7, 19)
}
