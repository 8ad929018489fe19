/**
 * CRC-32C as EROFS uses it: Castagnoli polynomial, reflected, seeded by the caller, without the final
 * inversion of the usual definition (lib/crc32.c of erofs-utils, lib/crc32 of the kernel).
 */

/** The polynomial 0x1EDC6F41 with its bits reversed. */
const POLYNOMIAL = 0x82f63b78

const TABLE = Uint32Array.from({ length: 256 }, (_, index) => {
  let value = index
  for (let bit = 0; bit < 8; bit++) {
    value = (value & 1) !== 0 ? (value >>> 1) ^ POLYNOMIAL : value >>> 1
  }
  return value
})

/** The seed of the superblock checksum. */
export const CRC32C_SEED = 0xffffffff

/** The running CRC after `bytes`, as a u32: feed the result back as `seed` to continue. */
export function crc32c(bytes: Uint8Array, seed: number = CRC32C_SEED): number {
  let crc = seed
  for (const byte of bytes) crc = (TABLE[(crc ^ byte) & 0xff] ?? 0) ^ (crc >>> 8)
  return crc >>> 0
}
