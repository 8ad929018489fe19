/** Real clients against the server: what libnbd, QEMU, nbd-client and fio make of it. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { promisify } from 'node:util'

import { findCommand } from '../../scripts/debian-packages.ts'
import { missing } from '../requires.ts'
import { pattern, providerOf, TestExport } from './exports.ts'
import { TestServer } from './harness.ts'

const run = promisify(execFile)
/** Debian's python3, which has the nbd module, comes first. */
const env = { ...process.env, PATH: `/usr/bin:${process.env['PATH'] ?? ''}` }
const SIZE = 3 * 1024 * 1024 + 512

describe('real clients', () => {
  const folder = mkdtempSync(join(tmpdir(), 'nbd-interop-'))
  const image = join(folder, 'image')
  const target = new TestExport(pattern(SIZE))
  target.fast = true
  const exports = providerOf(target, ['x', 'y', 'z'])
  const server = new TestServer(target, { exports, polling: {} })
  let root = ''
  let uri = ''

  const tool = async (command: string, ...args: string[]): Promise<string> => {
    // a plain user's PATH does not have all of them
    const { stdout } = await run(findCommand(command) ?? command, args, { env, timeout: 30_000 })
    return stdout
  }

  before(async () => {
    writeFileSync(image, target.bytes)
    await server.listen()
    root = `nbd://127.0.0.1:${server.port}`
    uri = `${root}/x`
  })

  after(async () => {
    await server[Symbol.asyncDispose]()
    rmSync(folder, { recursive: true })
  })

  test('nbdinfo --json', { skip: missing('nbdinfo') }, async () => {
    const info = JSON.parse(await tool('nbdinfo', '--json', uri))
    const [shown] = info.exports
    const expected = {
      'export-name': 'sha256:x',
      'export-size': SIZE,
      description: 'a test',
      is_read_only: true,
      can_cache: true,
      can_df: true,
      can_multi_conn: true,
      can_flush: false,
      can_fua: false,
      can_trim: false,
      can_zero: false,
      can_fast_zero: false,
      is_rotational: false,
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 32 * 1024 * 1024,
    }
    assert.equal(info.protocol, 'newstyle-fixed')
    assert.equal(info.structured, true)
    for (const [key, value] of Object.entries(expected)) assert.equal(shown[key], value, key)
  })

  test('nbdinfo --list, --size, --can, --is', { skip: missing('nbdinfo') }, async () => {
    const listed = JSON.parse(await tool('nbdinfo', '--json', '--list', '--no-content', root))
    const names = listed.exports.map((one: Record<string, unknown>) => one['export-name'])
    // nbdinfo shows the canonical name of each.
    assert.deepEqual(names, ['sha256:x', 'sha256:x', 'sha256:x'])
    assert.equal((await tool('nbdinfo', '--size', uri)).trim(), String(SIZE))
    for (const what of ['multi-conn', 'df', 'cache']) await tool('nbdinfo', '--can', what, uri)
    for (const what of ['write', 'trim', 'fua', 'zero']) {
      await assert.rejects(tool('nbdinfo', '--can', what, uri))
    }
    await tool('nbdinfo', '--is', 'read-only', uri)
    await assert.rejects(tool('nbdinfo', `${root}/nope`), /No such file or directory/)
  })

  test('nbdcopy, parallel and synchronous', { skip: missing('nbdcopy') }, async () => {
    const copy = join(folder, 'copy')
    for (const args of [['-C', '4', '-R', '16'], ['--synchronous'], ['--request-size=33554432']]) {
      await tool('nbdcopy', ...args, uri, copy)
      assert.ok(readFileSync(copy).equals(target.bytes), args.join(' '))
    }
  })

  test('nbdsh: odd reads, refused writes, raw errors', { skip: missing('nbdsh') }, async () => {
    const script = `
import hashlib
assert h.get_structured_replies_negotiated()
whole = h.pread(${SIZE}, 0)
for off, n in [(0, 1), (513, 1000), (${SIZE} - 1, 1), (${SIZE} - 512, 512), (1, 2097180)]:
    assert h.pread(n, off) == whole[off:off+n]
    chunks = []
    h.pread_structured(n, off, lambda data, at, status, error: chunks.append((bytes(data), at)), nbd.CMD_FLAG_DF)
    assert chunks == [(whole[off:off+n], off)]
h.cache(4096, 0)
h.set_strict_mode(0)
def expect(errno, call):
    try:
        call()
    except nbd.Error as e:
        assert e.errno == errno, e.errno
    else:
        raise AssertionError("no error")
expect("EPERM", lambda: h.pwrite(b"x" * 100000, 0))
expect("EPERM", lambda: h.trim(512, 0))
expect("EPERM", lambda: h.zero(512, 0))
expect("EINVAL", lambda: h.pread(2, ${SIZE} - 1))
expect("EINVAL", lambda: h.pread(1, 1 << 62))
h.flush()
print(hashlib.sha256(h.pread(${SIZE}, 0)).hexdigest() == hashlib.sha256(whole).hexdigest())
h.shutdown()
`
    assert.equal((await tool('nbdsh', '-u', uri, '-c', script)).trim(), 'True')
  })

  test('nbdsh: option by option', { skip: missing('nbdsh') }, async () => {
    const script = `
names = []
h.opt_list(lambda name, text: names.append((name, text)))
h.set_export_name("nope")
try:
    h.opt_info()
    raise AssertionError("no error")
except nbd.Error:
    pass
h.set_export_name("x")
h.set_full_info(True)
h.opt_info()
assert h.get_size() == ${SIZE}
h.opt_go()
print(names, h.get_canonical_export_name(), h.get_export_description())
h.shutdown()
`
    const printed = await tool('nbdsh', '--opt-mode', '-u', uri, '-c', script)
    assert.match(printed, /\('z', 'about z'\)\] sha256:x a test/)
  })

  test('qemu-img info and compare', { skip: missing('qemu-img') }, async () => {
    const info = JSON.parse(await tool('qemu-img', 'info', '--output=json', uri))
    assert.equal(info['virtual-size'], SIZE)
    const compared = await tool('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', uri, image)
    assert.match(compared, /identical/)
  })

  test('qemu-io', { skip: missing('qemu-io') }, async () => {
    const commands = ['read 0 4k', 'read 513 1000', 'aio_read 0 64k', 'aio_flush', 'read 1M 2M']
    const args = commands.flatMap((command) => ['-c', command])
    const printed = await tool('qemu-io', '-r', '-f', 'raw', ...args, uri)
    assert.match(printed, /read 2097152\/2097152 bytes at offset 1048576/)
  })

  test('nbd-client -l', { skip: missing('nbd-client') }, async () => {
    const printed = await tool('nbd-client', '-l', '127.0.0.1', String(server.port))
    assert.match(printed, /x: about x\s+y: about y\s+z: about z/)
  })

  test('fio, several jobs deep', { skip: missing('fio') }, async () => {
    const shape = ['--rw=randread', '--bsrange=512-256k', '--iodepth=32', '--numjobs=2']
    const name = ['--name=r', '--ioengine=nbd', `--uri=${uri}`, '--output-format=json']
    const printed = await tool('fio', ...name, ...shape, '--number_ios=2000', '--size=3m')
    const { jobs } = JSON.parse(printed.slice(printed.indexOf('{')))
    for (const job of jobs) assert.deepEqual([job.error, job.read.total_ios > 0], [0, true])
  })

  test('nothing is left behind', async () => {
    await server.ended(server.counter('connections_opened'))
    assert.equal(server.counter('connections_closed.protocol_error'), 0)
    assert.equal(server.counter('connections_closed.failed'), 0)
    assert.deepEqual([target.released, target.closed], [target.sent, target.opened])
    assert.deepEqual(server.errors, [])
  })
})
