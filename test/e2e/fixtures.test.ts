/**
 * Every uncompressed fixture, end to end through a real server: devices over NBD and HTTP byte for byte,
 * the kernel's own EROFS on an NBD mount against the list, every file over HTTP, each with a roomy cache
 * and with one far smaller than the image.
 */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFile, writeFile, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { missing } from '../requires.ts'
import type { ListedEntry } from './kernel-mount.ts'
import {
  attach,
  compareTrees,
  listTree,
  mountErofs,
  mountExport,
  parseTree,
} from './kernel-mount.ts'
import type { ServerProcess } from './server-process.ts'
import { runOk, startServerProcess } from './server-process.ts'
import { Random } from '../random.ts'

const FIXTURES = fileURLToPath(new URL('../fixtures/erofs/', import.meta.url))

/** Name of the image, with its extra devices. */
const IMAGES: Readonly<Record<string, readonly string[]>> = {
  plain: [],
  'plain-512': [],
  'plain-noinline': [],
  'chunk-4k': [],
  'chunk-64k-blob': ['chunk-64k-blob.blob0'],
  'chunk-1m-blob': ['chunk-1m-blob.blob0'],
  prefixes: [],
  fingerprint: [],
}
/** As many as their trees and data need; also served, but not parsed yet. */
const COMPRESSED = ['lz4', 'zstd', 'everything']
const FINGERPRINT = 'trusted.erofs.fingerprint'
const RANGES_PER_FILE = process.env['COMMONPAGE_FULL'] === '1' ? 8 : 2

interface Setup {
  readonly name: string
  readonly args: readonly string[]
}

const SETUPS: readonly Setup[] = [
  { name: 'roomy cache, one worker', args: ['--cache-size', '128MiB', '--workers', '1'] },
  {
    name: 'cache of 1 MiB, two workers',
    args: ['--cache-size', '1MiB', '--allow-tiny-cache', '--workers', '2'],
  },
]

for (const setup of SETUPS) {
  describe(`fixtures, ${setup.name}`, { concurrency: false }, () => {
    let server: ServerProcess
    let expected: Map<string, ListedEntry>
    before(async () => {
      server = await startServerProcess({ args: setup.args })
      expected = parseTree(await readFile(join(FIXTURES, 'tree.jsonl'), 'utf8'))
    })
    after(() => server[Symbol.asyncDispose]())

    for (const [name, extra] of Object.entries(IMAGES)) {
      const ref = `fixtures/${name}:1`
      const devices = [`${name}.erofs`, ...extra]

      test(`${name}: import`, async () => {
        const flags = extra.flatMap((file) => ['--device', join(FIXTURES, file)])
        const result = await server.run(
          'import',
          'erofs',
          join(FIXTURES, `${name}.erofs`),
          ...flags,
          ref,
          '--json',
        )
        assert.equal(result.code, 0, result.stderr)
        const report = JSON.parse(result.stdout) as { filesystem: string; digest: string }
        assert.equal(report.filesystem, 'erofs')
      })

      test(`${name}: devices over HTTP and NBD`, { skip: missing('nbdcopy') }, async () => {
        const parts: Buffer[] = []
        for (const [i, file] of devices.entries()) {
          const bytes = await readFile(join(FIXTURES, file))
          const response = await fetch(`${server.http}/v1/images/${ref}/-/dev/${i}`)
          assert.equal(response.status, 200)
          assert.ok(
            Buffer.from(await response.arrayBuffer()).equals(bytes),
            `${file} over HTTP differs`,
          )
          assert.equal(
            await nbdSha256(server, `${ref}/-/dev/${i}`),
            sha256(bytes),
            `${file} over NBD differs`,
          )
          parts.push(bytes)
        }
        const flattened = flatten(parts)
        const raw = await fetch(`${server.http}/v1/images/${ref}/-/raw`)
        assert.equal(sha256(Buffer.from(await raw.arrayBuffer())), sha256(flattened), 'raw differs')
        assert.equal(
          await nbdSha256(server, ref),
          sha256(flattened),
          'the flattened export differs',
        )
      })

      test(
        `${name}: the kernel's mount equals the list`,
        { skip: missing('root', 'nbdfuse', '/dev/fuse', 'erofs') },
        async () => {
          await using mounted = await mountExport(server.nbdUri(ref), 2)
          const listed = await listTree(mounted.path)
          if (name === 'fingerprint') takeFingerprints(listed)
          assert.deepEqual(compareTrees(expected, listed), [])
        },
      )

      if (extra.length > 0) {
        test(
          `${name}: as separate devices`,
          { skip: missing('root', 'nbdfuse', '/dev/fuse', 'erofs') },
          async () => {
            await using primary = await attach(server.nbdUri(`${ref}/-/dev/0`))
            await using blob = await attach(server.nbdUri(`${ref}/-/dev/1`))
            await using mounted = await mountErofs(primary.loop, [blob.loop])
            assert.deepEqual(compareTrees(expected, await listTree(mounted.path)), [])
          },
        )
      }

      test(`${name}: every file over HTTP, whole and by ranges`, async () => {
        const random = new Random(name.length)
        let files = 0
        for (const entry of expected.values()) {
          if (entry.size === undefined || entry.sha256 === undefined) continue
          const url = `${server.http}/v1/images/${ref}/-/files${encodeLatin1(entry.path)}`
          const whole = await fetch(url)
          assert.equal(whole.status, 200, `${url}: ${whole.status}`)
          const bytes = Buffer.from(await whole.arrayBuffer())
          assert.equal(sha256(bytes), entry.sha256, url)
          for (let i = 0; i < RANGES_PER_FILE && bytes.length > 0; i++) {
            const start = random.next(bytes.length)
            const end = start + random.next(bytes.length - start)
            const part = await fetch(url, { headers: { Range: `bytes=${start}-${end}` } })
            assert.equal(part.status, 206)
            assert.ok(
              Buffer.from(await part.arrayBuffer()).equals(bytes.subarray(start, end + 1)),
              `${url} ${start}-${end}`,
            )
          }
          files++
        }
        assert.ok(files > 200, `only ${files} files were compared`)
      })
    }

    for (const name of COMPRESSED) {
      const ref = `fixtures/${name}:1`
      const file = join(FIXTURES, `${name}.erofs`)
      test(`${name}: compressed, imported`, async () => {
        const result = await server.run('import', 'erofs', file, ref, '--json')
        assert.equal(result.code, 0, result.stderr)
      })
      test(`${name}: compressed, served whole`, { skip: missing('nbdcopy') }, async () => {
        assert.equal(await nbdSha256(server, ref), sha256(await readFile(file)))
      })
      test(`${name}: a compressed file says that it is not supported yet`, async () => {
        const response = await fetch(`${server.http}/v1/images/${ref}/-/files/big/text.txt`)
        const problem = (await response.json()) as { code: string }
        assert.equal(response.status, 501)
        assert.equal(problem.code, 'ERR_FILE_COMPRESSED')
      })
    }

    test('nothing stays pinned', async () => {
      const stats = await server.getJson<{ cache: { pinnedBytes: number } }>('/v1/stats')
      assert.equal(stats.cache.pinnedBytes, 0)
    })
  })
}

test(
  'what the list says, MAP_SHARED and a program run from the mount',
  { skip: missing('root', 'nbdfuse', '/dev/fuse', 'erofs', 'mkfs.erofs') },
  async () => {
    const folder = await mkdtemp(join(tmpdir(), 'commonpage-exec-'))
    try {
      await runOk('cp', ['/usr/bin/env', '/bin/true', folder])
      const data = new Random(5).bytes(300_001)
      await writeFile(join(folder, 'data'), data)
      const image = `${folder}.erofs`
      await runOk('mkfs.erofs', [image, folder])
      await using server = await startServerProcess()
      assert.equal((await server.run('import', 'erofs', image, 'exec/tools:1')).code, 0)
      await using mounted = await mountExport(server.nbdUri('exec/tools:1'))
      assert.match(await runOk(join(mounted.path, 'env'), ['A=from-the-mount']), /A=from-the-mount/)
      await runOk(join(mounted.path, 'true'), [])
      const script = `
import hashlib, mmap, sys
with open(sys.argv[1], 'rb') as f:
    m = mmap.mmap(f.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    print(hashlib.sha256(m[:]).hexdigest())`
      const mapped = await runOk('/usr/bin/python3', ['-c', script, join(mounted.path, 'data')])
      assert.equal(mapped.trim(), sha256(data))
      await rm(image)
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  },
)

/** That image's files have one attribute more, which says what is in them; the list does not have it. */
function takeFingerprints(listed: Map<string, ListedEntry>): void {
  for (const [path, entry] of listed) {
    const { [FINGERPRINT]: fingerprint, ...xattrs } = entry.xattrs ?? {}
    if (fingerprint === undefined) continue
    const content = Buffer.from(fingerprint, 'hex')
    assert.equal(content.toString('latin1', 0, 7), 'sha256:')
    assert.equal(content.toString('hex', 7), entry.sha256, path)
    const { xattrs: _, ...rest } = entry
    listed.set(path, Object.keys(xattrs).length === 0 ? rest : { ...rest, xattrs })
  }
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

async function nbdSha256(server: ServerProcess, name: string): Promise<string> {
  const script = 'nbdcopy "$1" - | sha256sum'
  const out = await runOk('bash', ['-o', 'pipefail', '-c', script, '-', server.nbdUri(name)])
  return out.slice(0, 64)
}

/** The devices at the unified addresses that the device table in block 0 gives them. */
function flatten(devices: readonly Buffer[]): Buffer {
  const [primary] = devices
  if (!primary || devices.length === 1) return primary ?? Buffer.alloc(0)
  const blockSize = 1 << primary.readUInt8(1024 + 12)
  const table = primary.readUInt16LE(1024 + 88) * 128
  const placed = devices
    .slice(1)
    .map((bytes, i) => ({ bytes, at: primary.readUInt32LE(table + i * 128 + 68) * blockSize }))
  const size = Math.max(primary.length, ...placed.map(({ bytes, at }) => at + bytes.length))
  const out = Buffer.alloc(size)
  primary.copy(out)
  for (const { bytes, at } of placed) bytes.copy(out, at)
  return out
}

function encodeLatin1(path: string): string {
  return [...Buffer.from(path, 'latin1')]
    .map((byte) =>
      byte === 0x2f || /[\w.~-]/.test(String.fromCharCode(byte))
        ? String.fromCharCode(byte)
        : `%${byte.toString(16).padStart(2, '0')}`,
    )
    .join('')
}
