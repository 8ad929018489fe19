/** Archives of GNU tar and of Python's tarfile, in all forms that they write, and archives that are damaged. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'

import { AppError } from '../../src/core/index.ts'
import type { TarEntry } from '../../src/tar/index.ts'
import { encodeSocket, readTar } from '../../src/tar/index.ts'
import { Random, seededBytes } from '../random.ts'

const MUTATIONS = process.env['COMMONPAGE_FULL'] === '1' ? 20_000 : 600
const LONG = 'n'.repeat(255)
const DEEP = `${'d'.repeat(90)}/${'e'.repeat(90)}/${'f'.repeat(90)}`

function entriesOf(bytes: Buffer): TarEntry[] {
  return [...readTar({ size: bytes.length, view: (at, length) => bytes.subarray(at, at + length) })]
}

/** The file's bytes, holes filled. */
function contentOf(bytes: Buffer, entry: TarEntry): Buffer {
  if (entry.segments === undefined) {
    return bytes.subarray(entry.dataOffset, entry.dataOffset + entry.size)
  }
  const content = Buffer.alloc(entry.size)
  let at = entry.dataOffset
  for (const { offset, length } of entry.segments) {
    bytes.copy(content, offset, at, at + length)
    at += length
  }
  return content
}

function codeOf(read: () => unknown): string {
  try {
    read()
  } catch (error) {
    assert.ok(error instanceof AppError, String(error))
    return error.code
  }
  return 'none'
}

describe('archives of others', () => {
  let folder: string
  let tree: string
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'commonpage-tar-'))
    tree = join(folder, 'tree')
    mkdirSync(join(tree, DEEP), { recursive: true })
    writeFileSync(join(tree, 'plain'), 'hello\n')
    writeFileSync(join(tree, 'empty'), '')
    writeFileSync(join(tree, LONG), seededBytes(1, 70_000))
    writeFileSync(Buffer.concat([Buffer.from(`${tree}/`), Buffer.from([0xff, 0xfe, 0x41])]), 'odd')
    writeFileSync(join(tree, DEEP, 'inside'), seededBytes(2, 513))
    linkSync(join(tree, 'plain'), join(tree, 'zlinked'))
    symlinkSync(DEEP, join(tree, 'symlink'))
    chmodSync(join(tree, 'plain'), 0o4711)
    utimesSync(join(tree, 'plain'), 1_600_000_000.25, 1_600_000_000.25)
    writeFileSync(join(tree, 'sparse'), 'start')
    truncateSync(join(tree, 'sparse'), 3_000_000)
    writeFileSync(join(tree, 'sparse'), 'end', { flag: 'a' })
  })
  after(() => rmSync(folder, { recursive: true, force: true }))

  function check(bytes: Buffer, { wholeSeconds = false } = {}): void {
    const seen = new Set<string>()
    for (const entry of entriesOf(bytes)) {
      const name = entry.path.toString('latin1').replace(/^\.\//, '').replace(/\/$/, '')
      if (name === '' || name === '.') continue
      seen.add(name)
      const path = Buffer.concat([Buffer.from(`${tree}/`), Buffer.from(name, 'latin1')])
      const status = lstatSync(path, { bigint: true })
      assert.equal(BigInt(entry.uid), status.uid, name)
      assert.equal(BigInt(entry.mtimeSeconds), status.mtimeNs / 1_000_000_000n, name)
      if (!wholeSeconds)
        assert.equal(BigInt(entry.mtimeNanoseconds), status.mtimeNs % 1_000_000_000n, name)
      if (entry.type !== 'symlink')
        assert.equal(entry.permissions, Number(status.mode) & 0o7777, name)
      if (entry.type === 'file') assert.ok(contentOf(bytes, entry).equals(readFileSync(path)), name)
      if (entry.type === 'symlink') assert.equal(entry.target.toString(), DEEP)
      if (entry.type === 'link') {
        const target = entry.target.toString().replace(/^\.\//, '')
        assert.equal(lstatSync(join(tree, target)).ino, Number(status.ino))
      }
      assert.equal(entry.type === 'directory', status.isDirectory(), name)
    }
    assert.equal(seen.size, 11, [...seen].join(' '))
  }

  const forms: readonly (readonly string[])[] = [
    ['--format=pax'],
    ['--format=pax', '--sparse'],
    ['--format=pax', '--sparse', '--sparse-version=0.1'],
    ['--format=pax', '--sparse', '--sparse-version=0.0'],
  ]
  for (const form of forms) {
    test(`tar ${form.join(' ')}`, () => {
      check(execFileSync('tar', [...form, '-c', '-C', tree, '.'], { maxBuffer: 1e8 }))
    })
  }
  for (const form of [
    ['--format=gnu'],
    ['--format=gnu', '--sparse'],
    ['--format=oldgnu', '--sparse'],
  ]) {
    test(`tar ${form.join(' ')}`, () => {
      const bytes = execFileSync('tar', [...form, '-c', '-C', tree, '.'], { maxBuffer: 1e8 })
      check(bytes, { wholeSeconds: true })
    })
  }
  for (const form of ['GNU_FORMAT', 'PAX_FORMAT']) {
    test(`Python's ${form}`, () => {
      const script = `import sys, tarfile, os
archive = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=tarfile.${form}, errors='surrogateescape')
archive.add(${JSON.stringify(tree)}, arcname='.')
archive.close()`
      const bytes = execFileSync('/usr/bin/python3', ['-c', script], { maxBuffer: 1e8 })
      check(bytes, { wholeSeconds: true })
    })
  }

  test('cut short anywhere, it is refused', () => {
    const bytes = execFileSync('tar', ['--format=pax', '--sparse', '-c', '-C', tree, '.'], {
      maxBuffer: 1e8,
    })
    let end = bytes.length
    while (bytes[end - 1] === 0) end--
    // the first block of zeros ends it: what follows does not count
    const whole = Math.ceil(end / 512) * 512
    const random = new Random(9)
    for (let i = 0; i < 300; i++) {
      const length = i < 150 ? 512 * random.next(whole / 512 + 1) : random.next(whole + 512)
      assert.match(
        codeOf(() => entriesOf(bytes.subarray(0, length))),
        /^ERR_TAR_TRUNCATED$/,
      )
    }
  })

  test(`with bytes changed, it is read or refused: ${MUTATIONS} archives`, () => {
    const pax = execFileSync('tar', ['--format=pax', '--sparse', '-c', '-C', tree, '.'], {
      maxBuffer: 1e8,
    })
    const gnu = execFileSync('tar', ['--format=gnu', '--sparse', '-c', '-C', tree, '.'], {
      maxBuffer: 1e8,
    })
    const random = new Random(4)
    const codes = new Set<string>()
    for (let i = 0; i < MUTATIONS; i++) {
      const bytes = Buffer.from(random.once(2) ? pax : gnu)
      const starts = entriesOf(bytes).map(({ offset }) => offset)
      for (let change = 0; change <= random.next(3); change++) {
        const start = starts[random.next(starts.length)] ?? 0
        const at = start + random.next(2048)
        bytes[at] = random.once(3) ? 0x30 + random.next(10) : random.next(256)
        if (random.once(2)) fixChecksum(bytes, start)
      }
      codes.add(codeOf(() => entriesOf(bytes)))
    }
    assert.ok(codes.has('ERR_TAR_BAD_HEADER') && codes.has('none'), [...codes].join(' '))
    for (const code of codes) assert.match(code, /^(none|ERR_TAR_[A-Z_]+)$/)
  })
})

/** So that the change gets past the checksum. */
function fixChecksum(bytes: Buffer, start: number): void {
  const block = bytes.subarray(start, start + 512)
  block.fill(0x20, 148, 156)
  const sum = block.reduce((total, byte) => total + byte, 0)
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
}

test('a socket travels as a fifo that says what it is', () => {
  const path = Buffer.from([0xff, 0x2f, 0x73])
  const socket = { path, permissions: 0o640, uid: 4_000_000_000, gid: 7, mtimeNs: -1n }
  const bytes = Buffer.concat([encodeSocket(socket), Buffer.alloc(1024)])
  const [entry, ...others] = entriesOf(bytes)
  assert.equal(others.length, 0)
  assert.ok(entry !== undefined)
  const { type, permissions, uid, gid, mtimeSeconds, mtimeNanoseconds } = entry
  assert.deepEqual(
    { type, permissions, uid, gid, mtimeSeconds, mtimeNanoseconds },
    {
      type: 'socket',
      permissions: 0o640,
      uid: 4e9,
      gid: 7,
      mtimeSeconds: -1,
      mtimeNanoseconds: 999_999_999,
    },
  )
  assert.deepEqual(entry.path, path)
  const listed = execFileSync('tar', ['-tv'], { input: bytes, encoding: 'latin1' })
  assert.match(listed, /^p/)
})

test('what stands in the device fields of other entries does not count', () => {
  const socket = { path: Buffer.from('x'), permissions: 0, uid: 0, gid: 0, mtimeNs: 0n }
  const bytes = Buffer.concat([encodeSocket(socket).subarray(-512), Buffer.alloc(1024)])
  const typed = (type: string): Buffer => {
    const copy = Buffer.from(bytes)
    copy.write(type, 156, 'latin1')
    copy.write('garbage!', 329, 'latin1')
    fixChecksum(copy, 0)
    return copy
  }
  for (const type of ['0', '5', '6']) {
    assert.deepEqual(entriesOf(typed(type))[0]?.device, { major: 0, minor: 0 })
  }
  for (const type of ['3', '4']) {
    assert.equal(
      codeOf(() => entriesOf(typed(type))),
      'ERR_TAR_BAD_HEADER',
    )
  }
})

test('what is no archive is refused', () => {
  assert.equal(
    codeOf(() => entriesOf(Buffer.alloc(0))),
    'ERR_TAR_TRUNCATED',
  )
  assert.equal(
    codeOf(() => entriesOf(seededBytes(1, 4096))),
    'ERR_TAR_BAD_HEADER',
  )
  assert.deepEqual(entriesOf(Buffer.alloc(1024)), [])
})

test('global headers are bounded, and the last value of a field holds', () => {
  const header = (records: string): Buffer => {
    const block = encodeSocket({
      path: Buffer.from('x'),
      permissions: 0,
      uid: 0,
      gid: 0,
      mtimeNs: 0n,
    }).subarray(0, 512)
    block.write('g', 156, 'latin1')
    block.write(records.length.toString(8).padStart(11, '0'), 124, 'latin1')
    fixChecksum(block, 0)
    const data = Buffer.alloc(Math.ceil(records.length / 512) * 512)
    data.write(records, 'latin1')
    return Buffer.concat([block, data])
  }
  const socket = encodeSocket({
    path: Buffer.from('x'),
    permissions: 0,
    uid: 0,
    gid: 0,
    mtimeNs: 0n,
  })
  const end = Buffer.alloc(1024)
  const link = 'linkpath='
  const two = Buffer.concat([header(`14 ${link}a\n`), header(`14 ${link}b\n`), socket, end])
  assert.equal(entriesOf(two)[0]?.target.toString(), 'b')
  const many = Array.from({ length: 101 }, (_, i) => header(`12 key${100 + i}=v\n`))
  assert.equal(
    codeOf(() => entriesOf(Buffer.concat([...many, socket, end]))),
    'ERR_TAR_BAD_HEADER',
  )
})

test('part of a multi-volume archive is refused', () => {
  const bytes = Buffer.alloc(2048)
  encodeSocket({ path: Buffer.from('x'), permissions: 0, uid: 0, gid: 0, mtimeNs: 0n }).copy(bytes)
  bytes.write('M', 1024 + 156, 'latin1')
  bytes.copy(bytes, 0, 1024)
  fixChecksum(bytes, 0)
  assert.equal(
    codeOf(() => entriesOf(bytes)),
    'ERR_TAR_UNSUPPORTED',
  )
})
