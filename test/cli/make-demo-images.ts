/**
 * Makes the two images that ship for machines without mkfs.erofs: `node test/cli/make-demo-images.ts`. The
 * content is generated from a fixed seed, so that anybody can make them again and nobody's licence is in
 * them. Needs mkfs.erofs (Debian: erofs-utils).
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'

const TARGET = join(import.meta.dirname, '../../src/cli/demo/images')
const WORDS = (
  'page cache chunk image blob frame device extent inode share domain reader memory store digest ' +
  'map fill keeper worker reply range export client server block tail metadata directory'
).split(' ')
const BASE_FILES = 220
const APPLICATION_FILES = 24
const UUIDS = {
  base: '6d9f3f0e-0000-4000-8000-000000000001',
  application: '6d9f3f0e-0000-4000-8000-000000000002',
}

/** xorshift32: small, and the same everywhere. */
function createRandom(seed: number): () => number {
  let state = seed
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) / 2 ** 32
  }
}

const random = createRandom(20_261_123)

function writeTree(folder: string, files: number): void {
  for (let index = 0; index < files; index++) {
    const directory = join(folder, `part${index % 12}`)
    mkdirSync(directory, { recursive: true })
    // sizes of real trees: most files small, some large
    const size = Math.floor(400 * Math.exp(random() * 4.6))
    let text = `${folder.split('/').at(-1)} ${index}\n`
    while (text.length < size) text += `${WORDS[Math.floor(random() * WORDS.length)]} `
    writeFileSync(join(directory, `file${index}.txt`), `${text.slice(0, size)}\n`)
  }
}

const work = mkdtempSync(join(tmpdir(), 'demo-images-'))
try {
  const tree = join(work, 'tree')
  mkdirSync(TARGET, { recursive: true })
  writeTree(join(tree, 'usr'), BASE_FILES)
  for (const [name, uuid] of Object.entries(UUIDS)) {
    if (name === 'application') writeTree(join(tree, 'var/application'), APPLICATION_FILES)
    const image = join(work, `${name}.erofs`)
    execFileSync('mkfs.erofs', ['--quiet', '-T1700000000', `-U${uuid}`, '--all-root', image, tree])
    const packed = gzipSync(readFileSync(image), { level: 9 })
    writeFileSync(join(TARGET, `${name}.erofs.gz`), packed)
    console.log(`${name}: ${readFileSync(image).length} bytes, packed ${packed.length}`)
  }
} finally {
  rmSync(work, { recursive: true, force: true })
}
