import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import type { ExportInfo } from '../../src/nbd/index.ts'
import { NBD_DEFAULT_LIMITS, NBD_OPT, NBD_REP } from '../../src/nbd/index.ts'
import type { ExportRequest } from '../../src/nbd/handshake.ts'
import { Handshake } from '../../src/nbd/handshake.ts'
import { CLIENT_FLAGS, hex, infoData, option, optionReply, u16, u32, u64 } from './wire.ts'

const EXPORT: ExportInfo = {
  name: 'canonical',
  description: 'words',
  size: 0x123456,
  multiConn: true,
}

/** Runs a handshake on the bytes, cut into pieces of `step`; answers at once. */
class Harness {
  readonly sent: Buffer[] = []
  readonly events: string[] = []
  readonly handshake: Handshake

  constructor(info: ExportInfo = EXPORT, limits = NBD_DEFAULT_LIMITS, answer = true) {
    this.handshake = new Handshake(
      {
        onSend: (bytes) => this.sent.push(bytes),
        onExport: (request: ExportRequest) => {
          this.events.push(`${request.via} ${request.name}`)
          if (!answer) return
          if (request.name === 'nope') this.handshake.answerRefusal('UNKNOWN', 'no such export')
          else this.handshake.answerExport(info)
        },
        onList: () => {
          this.events.push('LIST')
          if (!answer) return
          this.handshake.answerListEntry('one', 'first')
          this.handshake.answerListEntry('two', '')
          this.handshake.answerListEnd()
        },
        onEnd: (reason) => this.events.push(reason),
        onViolation: (error) => this.events.push(error.code),
      },
      limits,
    )
  }

  feed(bytes: Buffer, step = bytes.length): this {
    for (let at = 0; at < bytes.length; at += step) {
      // A copy that is overwritten afterwards: nothing may be kept by reference.
      const piece = Buffer.from(bytes.subarray(at, at + step))
      this.handshake.push(piece)
      piece.fill(0xee)
    }
    return this
  }

  get output(): string {
    return Buffer.concat(this.sent).toString('hex')
  }
}

function run(...pieces: readonly Buffer[]): Harness {
  return new Harness().feed(Buffer.concat(pieces))
}

function replies(harness: Harness): { option: number; type: number; text: string }[] {
  const bytes = Buffer.concat(harness.sent)
  const found = []
  for (let at = 0; at < bytes.length;) {
    const length = bytes.readUInt32BE(at + 16)
    const text = bytes.subarray(at + 20, at + 20 + length).toString('latin1')
    found.push({ option: bytes.readUInt32BE(at + 8), type: bytes.readUInt32BE(at + 12), text })
    at += 20 + length
  }
  return found
}

const infoExport = (flags: number, size = EXPORT.size): Buffer =>
  Buffer.concat([u16(0), u64(size), u16(flags)])

describe('client flags', () => {
  test('unknown flags end the connection', () => {
    assert.deepEqual(run(hex('00000007')).events, ['ERR_NBD_PROTOCOL'])
    assert.deepEqual(run(hex('80000001')).events, ['ERR_NBD_PROTOCOL'])
  })

  test('without C_FIXED_NEWSTYLE only EXPORT_NAME is served', () => {
    const harness = run(hex('00000000'), option(NBD_OPT.LIST))
    assert.deepEqual(
      replies(harness).map((r) => r.type),
      [NBD_REP.ERR_INVALID],
    )
    harness.feed(option(NBD_OPT.EXPORT_NAME, Buffer.from('x')))
    assert.equal(harness.handshake.state, 'done')
  })
})

describe('EXPORT_NAME', () => {
  test('size, flags and 124 zeroes', () => {
    const harness = run(hex('00000001'), option(NBD_OPT.EXPORT_NAME, Buffer.from('x')))
    const expected = Buffer.concat([u64(EXPORT.size), u16(0x503), Buffer.alloc(124)])
    assert.equal(harness.output, expected.toString('hex'))
    assert.deepEqual(harness.events, ['EXPORT_NAME x'])
  })

  test('no zeroes when the client asked for none; the empty name is allowed', () => {
    const harness = run(CLIENT_FLAGS, option(NBD_OPT.EXPORT_NAME))
    assert.equal(harness.output, Buffer.concat([u64(EXPORT.size), u16(0x503)]).toString('hex'))
  })

  test('an unknown name closes without a word', () => {
    const harness = run(CLIENT_FLAGS, option(NBD_OPT.EXPORT_NAME, Buffer.from('nope')))
    assert.deepEqual(harness.events, ['EXPORT_NAME nope', 'refused'])
    assert.equal(harness.output, '')
  })

  test('a name that is no string, or too long, closes', () => {
    for (const name of [hex('ff'), hex('6100'), Buffer.alloc(4097, 'a'), Buffer.alloc(70_000)]) {
      const { events } = run(CLIENT_FLAGS, option(NBD_OPT.EXPORT_NAME, name))
      assert.match(events.join(), /^ERR_NBD_(?:PROTOCOL|LIMIT)$/)
    }
  })
})

describe('GO and INFO', () => {
  test('GO without infos: EXPORT and ACK, nothing else, no zeroes', () => {
    const harness = run(hex('00000001'), option(NBD_OPT.GO, infoData('x')))
    const expected = [optionReply(7, 3, infoExport(0x503)), optionReply(7, 1)]
    assert.equal(harness.output, Buffer.concat(expected).toString('hex'))
    assert.equal(harness.sent.length, 1, 'one segment: nbd-client reads fields with single read()s')
    assert.equal(harness.handshake.state, 'done')
  })

  test('all infos when asked for, once each, unknown ones ignored', () => {
    const harness = run(CLIENT_FLAGS, option(NBD_OPT.INFO, infoData('x', [3, 1, 99, 2, 3, 0])))
    const blockSize = Buffer.concat([u16(3), u32(1), u32(4096), u32(32 * 1024 * 1024)])
    const expected = [
      optionReply(6, 3, infoExport(0x503)),
      optionReply(6, 3, blockSize),
      optionReply(6, 3, Buffer.concat([u16(1), Buffer.from('canonical')])),
      optionReply(6, 3, Buffer.concat([u16(2), Buffer.from('words')])),
      optionReply(6, 1),
    ]
    assert.equal(harness.output, Buffer.concat(expected).toString('hex'))
    assert.equal(harness.handshake.state, 'option')
  })

  test('no DESCRIPTION, no MULTI_CONN where the export has none; DF only when structured', () => {
    const plain = { name: 'n', size: 2 ** 53 - 1, multiConn: false, preferredBlockSize: 65_536 }
    const go = option(NBD_OPT.GO, infoData('x', [2]))
    const harness = new Harness(plain).feed(Buffer.concat([CLIENT_FLAGS, option(8), go]))
    const expected = [
      optionReply(8, 1),
      optionReply(7, 3, infoExport(0x483, 2 ** 53 - 1)),
      optionReply(7, 1),
    ]
    assert.equal(harness.output, Buffer.concat(expected).toString('hex'))
  })

  test('GO after INFO gives the same answer', () => {
    const harness = run(
      CLIENT_FLAGS,
      option(6, infoData('x', [1, 3])),
      option(7, infoData('x', [1, 3])),
    )
    const [info, go] = harness.sent.map((bytes) => {
      const copy = Buffer.from(bytes)
      for (let at = 0; at < copy.length; at += 20 + copy.readUInt32BE(at + 16)) copy[at + 11] = 0
      return copy.toString('hex')
    })
    assert.equal(info, go)
  })

  test('an unknown export is ERR_UNKNOWN with a text that ends in a full stop', () => {
    const harness = run(CLIENT_FLAGS, option(7, infoData('nope')), option(7, infoData('x')))
    const [refusal] = replies(harness)
    assert.deepEqual(refusal, { option: 7, type: NBD_REP.ERR_UNKNOWN, text: 'no such export.' })
    assert.equal(harness.handshake.state, 'done')
  })

  const malformed: Record<string, Buffer> = {
    'no data': Buffer.alloc(0),
    'five bytes': Buffer.alloc(5),
    'name longer than the data': Buffer.concat([u32(100), Buffer.from('x'), u16(0)]),
    'name length 0xffffffff': Buffer.concat([u32(0xffffffff), Buffer.from('x'), u16(0)]),
    'fewer infos than announced': Buffer.concat([infoData('x').subarray(0, -2), u16(2), u16(3)]),
    'bytes behind the infos': Buffer.concat([infoData('x', [3]), hex('00')]),
    'NUL in the name': infoData('a\0b'),
    'name that is not UTF-8': infoData(hex('c328')),
    'name of 4097 bytes': infoData('a'.repeat(4097)),
  }
  for (const [what, data] of Object.entries(malformed)) {
    test(`${what}: ERR_INVALID, and the next option is understood`, () => {
      const harness = run(CLIENT_FLAGS, option(7, data), option(6, data), option(8))
      assert.deepEqual(
        replies(harness).map((r) => [r.option, r.type]),
        [
          [7, NBD_REP.ERR_INVALID],
          [6, NBD_REP.ERR_INVALID],
          [8, NBD_REP.ACK],
        ],
      )
      assert.deepEqual(harness.events, [])
    })
  }

  test('a name of 4096 bytes is allowed', () => {
    assert.deepEqual(run(CLIENT_FLAGS, option(7, infoData('a'.repeat(4096)))).events, [
      `GO ${'a'.repeat(4096)}`,
    ])
  })
})

describe('other options', () => {
  test('ABORT is acknowledged whatever its data', () => {
    const harness = run(CLIENT_FLAGS, option(NBD_OPT.ABORT, Buffer.from('why not')), option(3))
    assert.equal(harness.output, optionReply(2, 1).toString('hex'))
    assert.deepEqual(harness.events, ['aborted'])
  })

  test('LIST names every export, each in one segment', () => {
    const harness = run(CLIENT_FLAGS, option(NBD_OPT.LIST))
    const server = (name: string, text: string): Buffer =>
      optionReply(3, 2, Buffer.concat([u32(name.length), Buffer.from(name + text)]))
    assert.deepEqual(
      harness.sent.map((bytes) => bytes.toString('hex')),
      [server('one', 'first'), server('two', ''), optionReply(3, 1)].map((b) => b.toString('hex')),
    )
  })

  test('LIST and STRUCTURED_REPLY refuse data; a second STRUCTURED_REPLY is refused', () => {
    const data = Buffer.from('x')
    const harness = run(CLIENT_FLAGS, option(3, data), option(8, data), option(8), option(8))
    const { ERR_INVALID, ACK } = NBD_REP
    assert.deepEqual(
      replies(harness).map((r) => r.type),
      [ERR_INVALID, ERR_INVALID, ACK, ERR_INVALID],
    )
  })

  test('LIST is answered so many times only', () => {
    const lists = Array.from({ length: 9 }, () => option(3))
    assert.equal(replies(run(CLIENT_FLAGS, ...lists)).at(-1)?.type, NBD_REP.ERR_POLICY)
  })

  test('what is not supported is ERR_UNSUP, with or without data, and costs no sync', () => {
    const numbers = [0, 4, 5, 9, 10, 11, 12, 0xffffffff]
    const options = numbers.flatMap((n) => [option(n), option(n, Buffer.alloc(70_000, n))])
    const harness = run(CLIENT_FLAGS, ...options, option(8))
    const types = replies(harness).map((r) => r.type)
    assert.deepEqual(types, [...numbers.flatMap(() => [NBD_REP.ERR_UNSUP, NBD_REP.ERR_UNSUP]), 1])
  })
})

describe('limits', () => {
  test('option data above 64 KiB is skipped with ERR_TOO_BIG, above 1 MiB ends the connection', () => {
    const skipped = run(CLIENT_FLAGS, option(7, Buffer.alloc(65_537)), option(8))
    assert.deepEqual(
      replies(skipped).map((r) => r.type),
      [NBD_REP.ERR_TOO_BIG, NBD_REP.ACK],
    )
    const header = option(7).subarray(0, 12)
    const harness = run(CLIENT_FLAGS, header, u32(1024 * 1024 + 1))
    assert.deepEqual(harness.events, ['ERR_NBD_LIMIT'])
    assert.deepEqual(run(CLIENT_FLAGS, header, u32(0xffffffff)).events, ['ERR_NBD_LIMIT'])
  })

  test('wrong option magic ends the connection', () => {
    assert.deepEqual(run(CLIENT_FLAGS, Buffer.alloc(16)).events, ['ERR_NBD_PROTOCOL'])
  })

  test('the number of options is bounded', () => {
    const harness = new Harness(EXPORT, { ...NBD_DEFAULT_LIMITS, maxOptions: 3 })
    harness.feed(Buffer.concat([CLIENT_FLAGS, option(99), option(99), option(99), option(99)]))
    assert.equal(harness.sent.length, 3)
    assert.deepEqual(harness.events, ['ERR_NBD_LIMIT'])
  })

  test('input that runs ahead of an answer waits, up to a limit', () => {
    const harness = new Harness(EXPORT, NBD_DEFAULT_LIMITS, false)
    harness.feed(Buffer.concat([CLIENT_FLAGS, option(6, infoData('x')), option(8)]))
    assert.equal(harness.handshake.wantsInput, false)
    assert.equal(harness.output, '')
    harness.handshake.answerExport(EXPORT)
    assert.deepEqual(
      replies(harness).map((r) => [r.option, r.type]),
      [
        [6, 3],
        [6, 1],
        [8, 1],
      ],
    )
    harness.feed(option(6, infoData('x')))
    harness.feed(Buffer.alloc(300_000))
    assert.deepEqual(harness.events.at(-1), 'ERR_NBD_LIMIT')
  })
})

test('shutdown: ERR_SHUTDOWN to what would go on, ABORT is still acknowledged', () => {
  const harness = run(CLIENT_FLAGS)
  harness.handshake.shutdown()
  harness.feed(
    Buffer.concat([option(3), option(6, infoData('x')), option(7, infoData('x')), option(8)]),
  )
  assert.deepEqual(new Set(replies(harness).map((r) => r.type)), new Set([NBD_REP.ERR_SHUTDOWN]))
  harness.feed(option(2))
  assert.deepEqual(harness.events, ['aborted'])
  const byName = run(CLIENT_FLAGS)
  byName.handshake.shutdown()
  assert.deepEqual(byName.feed(option(1, Buffer.from('x'))).events, ['refused'])
})

test('bytes behind GO are kept for the transmission phase', () => {
  const harness = run(CLIENT_FLAGS, option(7, infoData('x')), Buffer.from('rest'))
  assert.equal(harness.handshake.takeRest().toString(), 'rest')
})

test('split at every byte, and fed byte by byte, gives the same output as in one piece', () => {
  const bytes = Buffer.concat([
    CLIENT_FLAGS,
    option(11),
    option(99, Buffer.alloc(300, 7)),
    option(8),
    option(3),
    option(6, infoData('x', [0, 1, 2, 3])),
    option(10, Buffer.alloc(70_000, 1)),
    option(7, infoData('nope')),
    option(7, infoData('ü', [3])),
  ])
  const whole = new Harness().feed(bytes)
  assert.deepEqual(whole.events.slice(-2), ['GO nope', 'GO ü'])
  const bytewise = new Harness().feed(bytes, 1)
  assert.equal(bytewise.output, whole.output)
  assert.deepEqual(bytewise.events, whole.events)
  for (let cut = 1; cut < bytes.length; cut += cut < 600 || cut > bytes.length - 200 ? 1 : 997) {
    const split = new Harness().feed(bytes.subarray(0, cut)).feed(bytes.subarray(cut))
    assert.equal(split.output, whole.output, `cut at ${cut}`)
  }
})
