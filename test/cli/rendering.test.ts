/** Tables, trees, names, progress lines and errors: pure, byte for byte. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'

import { AppError, closestNames } from '../../src/core/index.ts'
import { errorToJson, exitCodeOf, renderError } from '../../src/cli/render/error.ts'
import { Progress } from '../../src/cli/render/progress.ts'
import { createStyle } from '../../src/cli/render/style.ts'
import { renderFields, renderTable } from '../../src/cli/render/table.ts'
import {
  encodeListedName,
  encodePathArgument,
  escapeName,
  plural,
  relativeTime,
  showEncodedName,
  visibleWidth,
} from '../../src/cli/render/text.ts'
import { renderTree } from '../../src/cli/render/tree.ts'
import { describeStart, describeStop } from '../../src/cli/commands/serve.ts'
import { loadConfig } from '../../src/server/config.ts'
import '../../src/cli/errors.ts'

const RUNS = process.env['COMMONPAGE_FULL'] === '1' ? 20_000 : 300

describe('tables', () => {
  const columns = [
    { header: 'image', value: (row: { name: string; size: string }) => row.name },
    { header: 'size', value: (row: { size: string }) => row.size, align: 'right' as const },
  ]

  test('text stands left, numbers right, headers are upper case, no borders, no trailing blanks', () => {
    const rows = [
      { name: 'demo/base:1', size: '12.0 MiB' },
      { name: 'a', size: '5 B' },
    ]
    assert.equal(
      renderTable(columns, rows, { totals: ['total', '12.0 MiB'] }),
      [
        'IMAGE            SIZE',
        'demo/base:1  12.0 MiB',
        'a                 5 B',
        'total        12.0 MiB',
      ].join('\n'),
    )
  })

  test('wide and combining characters and colours keep the columns straight', () => {
    const rows = [
      { name: '日本', size: '1' },
      { name: 'e\u0301', size: '\u001b[31m22\u001b[39m' },
    ]
    const lines = renderTable(columns, rows).split('\n')
    assert.deepEqual(new Set(lines.map(visibleWidth)), new Set([11]))
  })

  test('fields without a value are left out', () => {
    const fields = [
      ['a', '1'],
      ['none', undefined],
      ['long label', '2'],
    ] as const
    assert.equal(renderFields(fields), 'a           1\nlong label  2')
  })
})

test('trees are drawn like tree', () => {
  const text = renderTree({
    label: 'x',
    children: [{ label: 'a/', children: [{ label: 'b', note: '1 B' }] }, { label: 'c' }],
  })
  assert.equal(text, 'x\n├── a/\n│   └── b  1 B\n└── c')
})

describe('names', () => {
  test('nothing that moves a cursor or reverses text reaches the terminal', () => {
    assert.equal(escapeName('a\u001b[2Jb\n\u202e\u0085'), 'a\\x1b[2Jb\\x0a\\u{202e}\\x85')
    assert.equal(showEncodedName('caf%E9%1B'), 'caf\\xe9\\x1b')
    assert.equal(showEncodedName('caf%C3%A9 100%25'), 'café 100%')
  })

  test('a PATH argument: UTF-8 and %HH become bytes, slashes separate, dots stay', () => {
    assert.equal(encodePathArgument('/usr//lib/a b'), 'usr/lib/a%20b')
    assert.equal(encodePathArgument('caf%E9/é%25'), 'caf%E9/%C3%A9%25')
    assert.equal(encodePathArgument('../x'), '../x')
    assert.equal(encodePathArgument(''), '')
  })

  test('a lone % and bytes that Node lost are refused, with the way out', () => {
    for (const argument of ['100%', 'a%zz', 'a\ufffdb']) {
      assert.throws(() => encodePathArgument(argument), { code: 'ERR_CLI_USAGE' })
    }
  })

  test('any bytes survive from a listing to a URL and are shown without control characters', () => {
    const bytes = fc.uint8Array({ minLength: 1, maxLength: 40 })
    fc.assert(
      fc.property(bytes, (name) => {
        const encoded = [...name].map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join('')
        const decoded = Buffer.from(
          encodeListedName(encoded).replaceAll(/%(..)|(.)/gs, (_, hex?: string, plain?: string) =>
            hex === undefined ? Buffer.from(plain ?? '').toString('hex') : hex,
          ),
          'hex',
        )
        assert.deepEqual(new Uint8Array(decoded), new Uint8Array(name))
        assert.doesNotMatch(showEncodedName(encoded), /[\u0000-\u001f\u007f-\u009f\u202a-\u202e]/)
      }),
      { numRuns: RUNS, seed: 11 },
    )
  })

  test('plurals and relative times', () => {
    assert.equal(plural(1, 'directory'), '1 directory')
    assert.equal(plural(1200, 'directory'), '1,200 directories')
    const now = Date.parse('2026-11-23T10:00:00Z')
    assert.equal(relativeTime('2026-11-23T09:57:00Z', now), '3m ago')
    assert.equal(relativeTime(undefined, now), '-')
  })
})

describe('serve', () => {
  const host = { cores: 4, memoryBytes: 16 * 1024 ** 3 }
  const ready = {
    version: '1.2.3',
    http: { host: '127.0.0.1', port: 8080 },
    nbd: { host: '::1', port: 10809 },
    images: 2,
  }

  test('the start is told in at most eight lines, with addresses to click on', async () => {
    const text = describeStart(ready, await loadConfig({ host }), 123)
    assert.deepEqual(text.split('\n'), [
      'commonpage 1.2.3, configuration: built-in defaults, data: ./data',
      'dashboard and API  http://127.0.0.1:8080/',
      'NBD                nbd://[::1]:10809/',
      'cache              1.0 GiB (auto: 16.0 GiB of memory)',
      'store              2 images',
      'ready in 123ms',
    ])
  })

  test('what an open address exposes is said, and a wildcard is no address to click on', async () => {
    const info = {
      ...ready,
      http: { host: '0.0.0.0', port: 80 },
      nbdSocket: '/run/a b.sock',
      images: 0,
    }
    const loaded = await loadConfig({ host, flags: { insecure: true } })
    const lines = describeStart(info, loaded, 1).split('\n')
    assert.equal(lines.length, 8)
    assert.ok(lines.includes('dashboard and API  http://localhost:80/'))
    assert.ok(lines.includes('NBD socket         nbd+unix:///?socket=%2Frun%2Fa%20b.sock'))
    assert.ok(lines.some((line) => line.startsWith('insecure: whoever reaches these ports')))
    assert.ok(lines.some((line) => line.includes('empty: `commonpage import erofs')))
  })

  test('the end is told in one line', () => {
    const summary = { uptimeMs: 61_000, servedBytes: 2048, hitRatio: 0.9876, evictions: 1 }
    assert.equal(
      describeStop(summary),
      'stopped after 1m 1s: served 2.0 KiB, 98.8 % hits, 1 eviction',
    )
    assert.match(describeStop({ ...summary, hitRatio: undefined }), /served 2\.0 KiB, 1 eviction$/)
  })
})

describe('closest names', () => {
  test('typing errors are found, nearest first; strangers are not', () => {
    const names = ['demo/base:1', 'demo/bare:1', 'prod/web:7']
    assert.deepEqual(closestNames('demo/bsae:1', names).slice(0, 1), ['demo/base:1'])
    assert.deepEqual(closestNames('frame', ['cache.frameSize', 'data']), ['cache.frameSize'])
    assert.deepEqual(closestNames('zzzz', names), [])
  })
})

describe('progress', () => {
  function record(mode: 'tty' | 'plain' | 'json' | 'none' | 'auto', isTTY = false) {
    const written: string[] = []
    let clock = 0
    const progress = new Progress({
      mode,
      stream: { write: (text) => written.push(text), isTTY, columns: 60 },
      now: () => clock,
    })
    return {
      progress,
      written,
      at: (ms: number, bytes: number): void => {
        clock = ms
        progress.update(bytes)
      },
    }
  }

  test('a terminal sees one line, redrawn at most ten times a second', () => {
    const { progress, written, at } = record('auto', true)
    progress.start('sending a.erofs', 1024 * 1024)
    for (let ms = 1; ms <= 1000; ms++) at(ms, 1024 * 1.024 * ms)
    assert.ok(written.length >= 9 && written.length <= 11, `${written.length} redraws`)
    const last = 'sending a.erofs: 90%, 922.6 KiB of 1.0 MiB, 1.0 MiB/s, 1.0s left'
    assert.equal(written.at(-1), `\r\u001b[2K${last.slice(0, 59)}`, 'cut at the width of 60')
    for (const line of written) assert.ok(visibleWidth(line.replace('\r', '')) < 60)
    progress.finish()
    assert.equal(written.at(-1), '\r\u001b[2Ksending a.erofs: 1.0 MiB in 1.0s (1.0 MiB/s)\n')
  })

  test('a log gets a line each 10 % or 5 s, with rate and what is left', () => {
    const { progress, written, at } = record('auto')
    progress.start('importing', 100 * 1024)
    at(500, 50 * 1024)
    assert.deepEqual(written, [], 'not more than one a second')
    at(1000, 50 * 1024)
    at(1500, 51 * 1024)
    at(5999, 52 * 1024)
    at(6000, 53 * 1024)
    assert.equal(written.length, 2)
    assert.equal(written[0], 'importing: 50%, 50.0 KiB of 100.0 KiB, 50.0 KiB/s, 1.0s left\n')
    assert.match(
      written[1] ?? '',
      /^importing: 53%, 53\.0 KiB of 100\.0 KiB, 559 B\/s, 1m 27s left\n$/,
    )
  })

  test('the parts of a step count from 0 each; a rate is told once two of its updates are known', () => {
    const { progress, written, at } = record('plain')
    progress.start('importing', 0)
    progress.enter('reading')
    progress.update(0, 102_400)
    at(1000, 102_400)
    progress.enter('writing')
    progress.enter('writing')
    at(3000, 20_480)
    at(9000, 51_200)
    assert.deepEqual(written, [
      'importing (reading): 100%, 100.0 KiB of 100.0 KiB, 100.0 KiB/s\n',
      'importing (writing): 20%, 20.0 KiB of 100.0 KiB\n',
      'importing (writing): 50%, 50.0 KiB of 100.0 KiB, 5.0 KiB/s, 10s left\n',
    ])
    progress.update(102_400)
    progress.finish()
    assert.equal(written.at(-1), 'importing: 100.0 KiB in 9.0s (11.1 KiB/s)\n')
  })

  test('json lines are objects with bytes, rate and ETA; none writes nothing', () => {
    const json = record('json')
    json.progress.start('importing', 1000)
    json.at(1000, 250)
    assert.deepEqual(JSON.parse(json.written[0] ?? ''), {
      step: 'importing',
      doneBytes: 250,
      totalBytes: 1000,
      bytesPerSecond: 250,
      etaSeconds: 3,
    })
    const none = record('none', true)
    none.progress.start('x', 10)
    none.at(9000, 10)
    none.progress.finish()
    assert.deepEqual(none.written, [])
  })
})

describe('errors', () => {
  test('code, message and hint, with control characters taken out', () => {
    const error = new AppError('ERR_IMAGE_NOT_FOUND', "no image named 'x\u001b[2J'", {
      hint: 'look',
    })
    assert.equal(
      renderError(error),
      "error[ERR_IMAGE_NOT_FOUND]: no image named 'x\\x1b[2J'\nhint: look",
    )
  })

  test('a bug shows its stack and asks for a report', () => {
    const text = renderError(new TypeError('boom'))
    assert.match(text, /^error\[ERR_INTERNAL\]: TypeError: boom\n\s+at /)
    assert.match(text, /hint: this is a bug in commonpage/)
    assert.equal(exitCodeOf(new TypeError('boom')), 1)
  })

  test('exit codes: from the table of errors, else from the HTTP status', () => {
    assert.equal(exitCodeOf(new AppError('ERR_CLI_SERVER_UNREACHABLE', 'x')), 5)
    assert.equal(exitCodeOf(new AppError('ERR_REF_INVALID', 'x')), 2)
    const unknown = (status: number) =>
      new AppError('ERR_OF_TOMORROW', 'x', { details: { status } })
    assert.deepEqual(
      [400, 404, 409, 507, 500].map((status) => exitCodeOf(unknown(status))),
      [2, 3, 4, 4, 1],
    )
  })

  test('--json errors are one object', () => {
    assert.deepEqual(errorToJson(new AppError('ERR_REF_INVALID', 'x', { hint: 'y' })), {
      error: { code: 'ERR_REF_INVALID', message: 'x', hint: 'y', exit: 2 },
    })
  })
})

test('colour: flag, NO_COLOR and FORCE_COLOR outrank the terminal', () => {
  const terminal = { isTTY: true }
  assert.equal(createStyle(terminal, {}).red('x'), '\u001b[31mx\u001b[39m')
  assert.equal(createStyle({}, {}).red('x'), 'x')
  assert.equal(createStyle(terminal, { NO_COLOR: '1' }).enabled, false)
  assert.equal(createStyle({}, { FORCE_COLOR: '1' }).enabled, true)
  assert.equal(createStyle(terminal, { FORCE_COLOR: '1' }, false).enabled, false)
})
