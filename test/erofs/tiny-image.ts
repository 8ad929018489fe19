/** A complete image of 4096 bytes, written down byte by byte: a tree of six inodes over one blob. */

const DUMP = `
1024  e2 e1 f5 e0 02 d6 f3 51 03 00 00 00 0c 00 28 00   magic, crc, compat, 4 KiB, root nid 40
1040  06 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00   6 inodes
1056  00 00 00 00 01 00 00 00 00 00 00 00 00 00 00 00   1 block
1072  00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f   uuid
1088  74 69 6e 79 00 00 00 00 00 00 00 00 00 00 00 00   label
1104  0c 00 00 00 00 00 01 00 09 00 00 00 00 00 00 00   incompat 0xc, 1 device, slot offset 9
1152  34 62 61 61 34 34 31 37 38 65 39 62 31 36 38 62   tag = sha256 of the blob, ASCII
1168  32 66 31 37 66 65 38 64 33 34 34 34 33 37 34 61
1184  31 39 35 34 36 63 37 61 30 36 64 64 33 63 66 62
1200  64 32 35 35 61 35 61 37 63 64 66 64 65 66 33 39
1216  02 02 00 00 01 00 00 00 00 00 00 00 00 00 00 00   514 blocks at unified block 1
1280  05 00 00 00 ed 41 00 00 55 00 00 00 00 00 00 00   nid 40: extended, layout 2, dir, size 85
1296  ff ff ff ff 01 00 00 00 00 00 00 00 00 00 00 00
1312  00 f1 53 65 00 00 00 00 00 00 00 00 03 00 00 00   mtime, nlink 3
1344  28 00 00 00 00 00 00 00 48 00 02 00 28 00 00 00   entries: ".", "..", "a.txt", "big", "d", "l"
1360  00 00 00 00 49 00 02 00 2d 00 00 00 00 00 00 00
1376  4b 00 01 00 30 00 00 00 00 00 00 00 50 00 01 00
1392  33 00 00 00 00 00 00 00 53 00 02 00 3a 00 00 00
1408  00 00 00 00 54 00 07 00 2e 2e 2e 61 2e 74 78 74
1424  62 69 67 64 6c 00 00 00 00 00 00 00 00 00 00 00
1440  09 00 00 00 a4 81 00 00 0c 00 00 00 00 00 00 00   nid 45: a.txt, layout 4
1456  28 00 00 00 02 00 00 00 00 00 00 00 00 00 00 00   format 0x28
1472  00 f1 53 65 00 00 00 00 00 00 00 00 01 00 00 00
1504  00 00 01 00 00 00 00 00 00 00 00 00 00 00 00 00   device 1, block 0
1536  09 00 00 00 a4 81 00 00 c0 91 21 00 00 00 00 00   nid 48: big
1552  28 00 00 00 03 00 00 00 00 00 00 00 00 00 00 00
1568  00 f1 53 65 00 00 00 00 00 00 00 00 01 00 00 00
1600  00 00 01 00 01 00 00 00 00 00 01 00 01 01 00 00   device 1, blocks 1 and 257
1616  00 00 00 00 ff ff ff ff 00 00 00 00 00 00 00 00   hole
1632  05 00 00 00 ed 41 00 00 28 00 00 00 00 00 00 00   nid 51: d
1648  ff ff ff ff 04 00 00 00 00 00 00 00 00 00 00 00
1664  00 f1 53 65 00 00 00 00 00 00 00 00 02 00 00 00
1696  33 00 00 00 00 00 00 00 24 00 02 00 28 00 00 00
1712  00 00 00 00 25 00 02 00 37 00 00 00 00 00 00 00
1728  27 00 01 00 2e 2e 2e 78 00 00 00 00 00 00 00 00
1760  09 00 00 00 a4 81 00 00 01 00 00 00 00 00 00 00   nid 55: d/x
1776  28 00 00 00 05 00 00 00 00 00 00 00 00 00 00 00
1792  00 f1 53 65 00 00 00 00 00 00 00 00 01 00 00 00
1824  00 00 01 00 01 02 00 00 00 00 00 00 00 00 00 00   device 1, block 513
1856  05 00 00 00 ff a1 00 00 05 00 00 00 00 00 00 00   nid 58: l
1872  ff ff ff ff 06 00 00 00 00 00 00 00 00 00 00 00
1888  00 f1 53 65 00 00 00 00 00 00 00 00 01 00 00 00
1920  61 2e 74 78 74 00 00 00 00 00 00 00 00 00 00 00   "a.txt"
`

const BLOCK = 4096
const MIB = 1024 * 1024
/** `big` holds so many times 'A', then zeros. */
const BIG_LETTERS = 1_050_000

export const TINY_BIG_SIZE = 2_200_000

export function tinyImage(): Uint8Array {
  const image = new Uint8Array(BLOCK)
  for (const line of DUMP.trim().split('\n')) {
    const [offset, ...rest] = line.split(/\s+/)
    const bytes = rest.slice(0, 16).map((byte) => parseInt(byte, 16))
    image.set(bytes, Number(offset))
  }
  return image
}

/** Block 0: a.txt; 1 to 512: the two chunks of big that have data; 513: d/x. */
export function tinyBlob(): Uint8Array {
  const blob = new Uint8Array(514 * BLOCK)
  blob.set(Buffer.from('hello world\n'), 0)
  blob.fill(0x41, BLOCK, BLOCK + MIB)
  blob.fill(0x41, BLOCK + MIB, BLOCK + BIG_LETTERS)
  blob.set(Buffer.from('x'), 513 * BLOCK)
  return blob
}

export function tinyBig(): Uint8Array {
  return new Uint8Array(TINY_BIG_SIZE).fill(0x41, 0, BIG_LETTERS)
}
