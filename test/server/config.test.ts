/** Settings: precedence, origins, units, refusals. */
import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { Value } from 'typebox/value'

import { isAppError } from '../../src/core/index.ts'
import {
  checkConfigFile,
  configJsonSchema,
  environmentName,
  loadConfig,
  readHostFacts,
} from '../../src/server/config.ts'
import type { HostFacts, LoadOptions, SettingPath } from '../../src/server/config.ts'
import { dataFolder } from '../store/data-folder.ts'

const GIB = 1024 ** 3
const MIB = 1024 ** 2
const HOST: HostFacts = { cores: 8, memoryBytes: 16 * GIB }

let folder = ''
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'config-test-'))
})
after(() => rm(folder, { recursive: true }))

async function file(name: string, text: string): Promise<string> {
  const path = join(folder, name)
  await writeFile(path, text)
  return path
}

async function load(options: LoadOptions = {}) {
  return (await loadConfig({ host: HOST, ...options })).config
}

async function refusal(options: LoadOptions): Promise<{ code: string; text: string }> {
  try {
    await loadConfig({ host: HOST, ...options })
  } catch (error) {
    assert.ok(isAppError(error), String(error))
    return { code: error.code, text: `${error.message} | ${error.hint ?? ''}` }
  }
  return assert.fail('it was accepted')
}

describe('where values come from', () => {
  test('nothing set: loopback, the default ports, all but one core', async () => {
    const config = await load()
    assert.deepEqual(config.http, { host: '127.0.0.1', port: 8080 })
    assert.deepEqual(config.nbd, { host: '127.0.0.1', port: 10809 })
    assert.equal(config.workers, 7)
    assert.equal(config.readahead, true)
    assert.equal(config.insecure, false)
    assert.equal('nbdSocket' in config, false)
  })

  test('flag > environment > file > default, and each value says which', async () => {
    const path = await file(
      'all.yaml',
      'data: /from/file\nworkers: 2\nhttp:\n  listen: 127.0.0.1:1\ncache:\n  size: 1GiB\n',
    )
    const { config, settings } = await loadConfig({
      host: HOST,
      file: path,
      env: { COMMONPAGE_WORKERS: '3', COMMONPAGE_HTTP__LISTEN: '127.0.0.1:2' },
      flags: { 'http.listen': '127.0.0.1:3' },
    })
    assert.equal(config.http.port, 3)
    assert.equal(config.workers, 3)
    assert.equal(config.data, '/from/file')
    const origins = Object.fromEntries(settings.map(({ path: key, origin }) => [key, origin]))
    assert.equal(origins['http.listen'], 'flag --http')
    assert.equal(origins['workers'], 'environment COMMONPAGE_WORKERS')
    assert.equal(origins['cache.size'], `file ${path}`)
    assert.equal(origins['nbd.listen'], 'default')
  })

  test('every setting can be set by flag, environment and file to the same effect', async () => {
    const samples: Record<SettingPath, string | boolean> = {
      data: '/d',
      'http.listen': '[::1]:81',
      'http.allowedHosts': 'images.example.org, *.LAN',
      'nbd.listen': 'localhost:82',
      'nbd.socket': '/run/x.sock',
      'nbd.defaultExport': 'demo/base:1',
      'cache.size': '32MiB',
      'cache.frameSize': '16KiB',
      'cache.readahead': false,
      'cache.allowTiny': true,
      workers: '5',
      'connections.max': '12',
      'connections.maxPerPeer': '3',
      drainTimeout: '1.5s',
      insecure: true,
      'log.level': 'debug',
      'log.format': 'json',
    }
    const tree: Record<string, unknown> = {}
    for (const [path, value] of Object.entries(samples)) {
      const [group = '', key] = path.split('.')
      const isNumber = path === 'workers' || path.startsWith('connections.')
      const typed = isNumber ? Number(value) : value
      if (key === undefined) tree[group] = typed
      else tree[group] = { ...(tree[group] as object | undefined), [key]: typed }
    }
    const env = Object.fromEntries(
      Object.entries(samples).map(([path, value]) => [environmentName(path), String(value)]),
    )
    const fromFlags = await load({ flags: samples })
    assert.deepEqual(await load({ env }), fromFlags)
    assert.deepEqual(await load({ file: await file('full.json', JSON.stringify(tree)) }), fromFlags)
    assert.equal(fromFlags.cacheSize, 32 * MIB)
    assert.deepEqual(fromFlags.httpAllowedHosts, ['images.example.org', '*.lan'])
    assert.equal(fromFlags.nbdSocket, '/run/x.sock')
    assert.equal(fromFlags.maxConnectionsPerPeer, 3)
    assert.equal(fromFlags.drainTimeoutMs, 1500)
    assert.deepEqual(fromFlags.http, { host: '::1', port: 81 })
    assert.ok(Value.Check(configJsonSchema() as never, tree))
  })

  test('the schema refuses what the loader refuses', () => {
    const schema = configJsonSchema() as never
    for (const bad of [
      { cach: {} },
      { cache: { size: 'big' } },
      { workers: 0 },
      { connections: { max: 0 } },
      { http: { allowedHosts: [] } },
      { http: { allowedHosts: 'a b' } },
      { http: { allowedHosts: ['images.example.org:80'] } },
      { http: { allowedHosts: '*' } },
      { drainTimeout: 'soon' },
      { log: { level: 'x' } },
    ]) {
      assert.equal(Value.Check(schema, bad), false, JSON.stringify(bad))
    }
  })
})

describe('names that HTTP answers to', () => {
  const hosts = async (flags: NonNullable<LoadOptions['flags']>) =>
    (await load({ flags })).httpAllowedHosts

  test('on loopback none but the own ones, elsewhere all, unless names are given', async () => {
    for (const listen of ['127.0.0.1:80', '127.9.9.9:80', '[::1]:80', 'localhost:80']) {
      assert.deepEqual(await hosts({ 'http.listen': listen }), [], listen)
    }
    const open = { 'http.listen': '0.0.0.0:80', insecure: true }
    assert.equal(await hosts(open), undefined)
    assert.deepEqual(await hosts({ ...open, 'http.allowedHosts': 'a.example' }), ['a.example'])
    assert.deepEqual(await hosts({ 'http.allowedHosts': 'a.example' }), ['a.example'])
  })

  test('a file takes a list or a text, and print shows what serve takes', async () => {
    const list = await file('list.yaml', 'http:\n  allowedHosts: [a.example, "*.LAN"]\n')
    const text = await file('text.yaml', 'http:\n  allowedHosts: "a.example, *.lan"\n')
    for (const path of [list, text]) {
      const { config, settings } = await loadConfig({ host: HOST, file: path })
      assert.deepEqual(config.httpAllowedHosts, ['a.example', '*.lan'])
      const shown = settings.find(({ path: key }) => key === 'http.allowedHosts')?.value
      assert.equal(shown, 'a.example,*.lan')
    }
  })

  test('ports, lone stars and empty names are refused', async () => {
    for (const bad of ['a.example:80', '*', 'a,,b', '', 'http://a', 'a.*', '[::1]']) {
      const { code, text } = await refusal({ flags: { 'http.allowedHosts': bad } })
      assert.equal(code, 'ERR_CONFIG_INVALID', bad)
      assert.match(text, /http\.allowedHosts/)
    }
  })
})

describe('refusals', () => {
  test('unknown keys and variables, with the nearest one', async () => {
    const path = await file('typo.yml', 'cache:\n  sise: 1GiB\n')
    const key = await refusal({ file: path })
    assert.equal(key.code, 'ERR_CONFIG_INVALID')
    assert.match(key.text, /unknown key cache\.sise \| did you mean cache\.size\?/)
    const variable = await refusal({ env: { COMMONPAGE_CACHE__SISE: '1' } })
    assert.equal(variable.code, 'ERR_CONFIG_INVALID')
    assert.match(variable.text, /did you mean COMMONPAGE_CACHE__SIZE\?/)
  })

  test('all problems of a file at once, each with path, value and expectation', async () => {
    const path = await file(
      'many.json',
      '{"workers": 0, "cache": {"size": "big"}, "http": 3, "x": 1}',
    )
    const { text } = await refusal({ file: path })
    assert.match(text, /^4 problems/)
    assert.match(
      text,
      /workers \(file .*many\.json\) is 0, expected auto or a number of at least 1/,
    )
    assert.match(text, /cache\.size \(file .*\) is 'big', expected auto or a size/)
    assert.match(text, /http is 3, expected a mapping/)
    assert.match(text, /unknown key x/)
    await assert.rejects(checkConfigFile(path, HOST), { code: 'ERR_CONFIG_INVALID' })
  })

  test('a string is no boolean in a file, but is one in the environment', async () => {
    const path = await file('string.yaml', 'insecure: "true"\n')
    assert.equal((await refusal({ file: path })).code, 'ERR_CONFIG_INVALID')
    assert.equal((await load({ env: { COMMONPAGE_INSECURE: 'yes' } })).insecure, true)
    assert.equal(
      (await refusal({ env: { COMMONPAGE_INSECURE: 'maybe' } })).code,
      'ERR_CONFIG_INVALID',
    )
  })

  test('files that cannot be read or parsed', async () => {
    for (const path of [
      join(folder, 'none.yaml'),
      await file('bad.yaml', 'a: [1\n'),
      await file('bad.json', '{'),
      await file('list.yaml', '- 1\n'),
      await file('conf.toml', 'a = 1\n'),
      await file(
        'bomb.yaml',
        `a: &a [x]\n${'bcdefghijklmnopqrstu'
          .split('')
          .map((key, at, all) => `${key}: &${key} [*${all[at - 1] ?? 'a'}, *${all[at - 1] ?? 'a'}]`)
          .join('\n')}\n`,
      ),
    ]) {
      assert.equal((await refusal({ file: path })).code, 'ERR_CONFIG_UNREADABLE', path)
    }
    const empty = await load({ file: await file('empty.yaml', '# nothing\n') })
    assert.equal(empty.http.port, 8080)
  })

  test('other variables with the prefix are left alone: our own, and those of Kubernetes', async () => {
    await load({
      env: {
        COMMONPAGE_SERVER: 'http://x',
        COMMONPAGE_SERVICE_HOST: '10.0.0.1',
        COMMONPAGE_PORT: 'tcp://10.0.0.1:8080',
        COMMONPAGE_NBD_PORT_10809_TCP_ADDR: '10.0.0.1',
        UNRELATED: 'x',
      },
    })
  })
})

describe('derived values and contradictions', () => {
  test('listening off loopback needs --insecure, and the refusal says why', async () => {
    for (const address of ['0.0.0.0:80', '192.168.1.2:80', '[::]:80', 'example.org:80']) {
      for (const path of ['http.listen', 'nbd.listen'] as const) {
        const { code, text } = await refusal({ flags: { [path]: address } })
        assert.equal(code, 'ERR_CONFIG_INSECURE', address)
        assert.match(text, /no authentication.*--insecure/)
        assert.equal((await load({ flags: { [path]: address, insecure: true } })).insecure, true)
      }
    }
    for (const address of ['127.8.9.1:80', 'localhost:80', '[::1]:80']) {
      await load({ flags: { 'http.listen': address } })
    }
  })

  test('the same port twice is refused where the addresses overlap', async () => {
    const same = { 'http.listen': '127.0.0.1:9', 'nbd.listen': '127.0.0.1:9' }
    assert.equal((await refusal({ flags: same })).code, 'ERR_CONFIG_INVALID')
    const wide = { 'http.listen': '0.0.0.0:9', 'nbd.listen': '127.0.0.1:9', insecure: true }
    assert.equal((await refusal({ flags: wide })).code, 'ERR_CONFIG_INVALID')
    await load({ flags: { 'http.listen': '127.0.0.1:9', 'nbd.listen': '127.0.0.2:9' } })
    await load({ flags: { 'http.listen': '127.0.0.1:0', 'nbd.listen': '127.0.0.1:0' } })
  })

  test('cache: automatic from memory or the cgroup, at least 64 MiB, never more than there is', async () => {
    const size = async (host: HostFacts, chosen?: string, tiny = false) => {
      const flags = {
        ...(chosen === undefined ? {} : { 'cache.size': chosen }),
        'cache.allowTiny': tiny,
      }
      return (await loadConfig({ host, flags })).config.cacheSize
    }
    assert.equal(await size(HOST), GIB)
    assert.equal(await size({ cores: 1, memoryBytes: 2 * GIB }), 512 * MIB)
    const inGroup = { ...HOST, cgroupLimitBytes: GIB }
    assert.equal(await size({ ...HOST, cgroupLimitBytes: 8 * GIB }), Math.floor(0.6 * 8192) * MIB)
    assert.equal(await size(inGroup), Math.floor((1024 - 250 - 200 - 6 * 64) / 1.25) * MIB)
    assert.equal(await size({ cores: 1, memoryBytes: 100 * MIB }), 64 * MIB)
    await assert.rejects(size(HOST, '63MiB'), { code: 'ERR_CONFIG_INVALID' })
    assert.equal(await size(HOST, '8MiB', true), 8 * MIB)
    await assert.rejects(size(inGroup, '2GiB'), { code: 'ERR_CONFIG_INVALID' })
    await assert.rejects(size(HOST, '17GiB'), { code: 'ERR_CONFIG_INVALID' })
  })

  test('what is automatic fits the limit: cache and a quarter, 250 MiB, 64 MiB a worker, an import', async () => {
    for (const cores of [1, 2, 4, 16, 128]) {
      for (const mib of [530, 600, 1024, 2048, 4096, 65_536]) {
        for (const host of [
          { cores, memoryBytes: mib * MIB },
          { cores, memoryBytes: 1024 * GIB, cgroupLimitBytes: mib * MIB },
        ]) {
          const { cacheSize, workers } = await load({ host })
          assert.ok(workers >= 1 && workers <= 8 && workers <= Math.max(1, cores - 1))
          const needed = cacheSize * 1.25 + (250 + 200 + 64 * (workers - 1)) * MIB
          assert.ok(needed <= mib * MIB, `${cores} cores, ${mib} MiB: ${needed / MIB} MiB`)
        }
      }
    }
    assert.equal((await load({ flags: { workers: '20' } })).workers, 20, 'asked for')
  })

  test('the limit is the smallest of the process’s control groups, v2 and v1', async () => {
    const limitOf = async (files: Readonly<Record<string, string>>) => {
      await using root = await dataFolder()
      for (const [name, text] of Object.entries(files)) {
        const path = join(root.path, name)
        await mkdir(dirname(path), { recursive: true })
        await writeFile(path, `${text}\n`)
      }
      return (await readHostFacts(root.path)).cgroupLimitBytes
    }
    const cgroup = (text: string) => ({ 'proc/self/cgroup': text })
    const unit = 'sys/fs/cgroup/system.slice/commonpage.service'
    const v2 = cgroup('0::/system.slice/commonpage.service')
    assert.equal(await limitOf({}), undefined)
    assert.equal(await limitOf({ ...v2, [`${unit}/memory.max`]: 'max' }), undefined)
    assert.equal(await limitOf({ ...v2, [`${unit}/memory.max`]: `${MIB}` }), MIB)
    const high = { [`${unit}/memory.max`]: `${2 * MIB}`, [`${unit}/memory.high`]: `${MIB}` }
    assert.equal(await limitOf({ ...v2, ...high }), MIB)
    const slice = { 'sys/fs/cgroup/system.slice/memory.max': `${MIB - 1}` }
    assert.equal(await limitOf({ ...v2, ...high, ...slice }), MIB - 1)
    assert.equal(
      await limitOf({ ...cgroup('0::/'), 'sys/fs/cgroup/memory.max': `${MIB}` }),
      MIB,
      'in a namespace of its own',
    )
    assert.equal(
      await limitOf({ ...cgroup('0::/../other'), 'sys/fs/memory.max': '1' }),
      undefined,
      'what is outside of the namespace is not looked at',
    )
    const v1 = cgroup('9:name=systemd:/a\n5:cpu,memory:/docker/a:b\n0::/')
    const own = 'sys/fs/cgroup/memory/docker/a:b/memory.limit_in_bytes'
    assert.equal(await limitOf({ ...v1, [own]: `${MIB}` }), MIB)
    const mounted = { 'sys/fs/cgroup/memory/memory.limit_in_bytes': `${MIB}` }
    assert.equal(await limitOf({ ...v1, ...mounted }), MIB, 'the mount begins at the own group')
    assert.equal(await limitOf({ ...v1, [own]: '9223372036854771712' }), undefined)
  })

  test('frame sizes, socket paths, worker counts and default exports that cannot be', async () => {
    for (const flags of [
      { 'cache.frameSize': '24KiB' },
      { 'nbd.socket': `/${'x'.repeat(107)}` },
      { workers: '257' },
      { workers: '-1' },
      { 'http.listen': '127.0.0.1:65536' },
      { 'http.listen': '::1:80' },
      { 'cache.size': '' },
      { data: '' },
    ]) {
      assert.equal((await refusal({ flags })).code, 'ERR_CONFIG_INVALID', JSON.stringify(flags))
    }
    assert.equal((await refusal({ flags: { 'nbd.defaultExport': 'X' } })).code, 'ERR_REF_INVALID')
    await load({ flags: { 'nbd.defaultExport': 'demo/base:1/-/dev/0' } })
  })
})
