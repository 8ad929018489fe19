/**
 * Seeded streams of client bytes for fuzzing: valid sessions, and what flipped bits, cuts, splices, repeated
 * messages, absurd lengths and noise make of them. The same seed gives the same stream everywhere.
 */
import type { Random } from '../random.ts'
import { hex, infoData, option, request, u16, u32 } from './wire.ts'

/** How a client sends its stream and leaves. */
export interface ClientStream {
  readonly bytes: Buffer
  /** Ends of the pieces it is sent in. */
  readonly cuts: readonly number[]
  /**
   * `half-close`: FIN behind the last byte, then everything is read. `vanish`: the connection is reset or
   * destroyed when so many pieces are sent.
   */
  readonly end: 'half-close' | 'vanish'
  readonly piecesBeforeVanishing: number
  /** Does not read until it has sent everything, or vanishes. */
  readonly deaf: boolean
}

export interface StreamOptions {
  /** Bytes of the export: offsets and lengths are about it. */
  readonly size: number
  /** Export names that exist, are unknown, and break the provider. */
  readonly names: readonly string[]
}

/** Above, a stream could run further ahead of an answer than the server allows. */
const MAX_STREAM = 200_000
const COMMANDS = [0, 0, 0, 0, 0, 0, 1, 3, 4, 5, 6, 7, 8, 9]
const OPTIONS = [0, 2, 3, 4, 5, 8, 8, 8, 9, 10, 11, 77]
const LENGTHS = [0, 1, 5, 28, 4096, 65_536, 65_537, 1 << 20, (1 << 20) + 1, 1 << 25, 1 << 26]
const EXTREMES = [0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff]

export function clientStream(random: Random, options: StreamOptions): ClientStream {
  const bytes = random.next(12) === 0 ? noise(random) : mutated(random, options)
  const cuts = cutsOf(random, bytes.length)
  return {
    bytes,
    cuts,
    end: random.next(4) === 0 ? 'vanish' : 'half-close',
    piecesBeforeVanishing: random.next(cuts.length + 1),
    deaf: random.next(8) === 0,
  }
}

/** A session that a careful client could have had, message by message. */
function session(random: Random, { size, names }: StreamOptions): Buffer[] {
  const messages = [u32(random.next(8) === 0 ? random.next(4) : 3)]
  if (random.next(2) === 0) messages.push(option(8))
  for (let i = random.next(4); i > 0; i--) messages.push(anyOption(random, names))
  const name = names[0] ?? ''
  messages.push(
    random.next(5) === 0 ? option(1, Buffer.from(name)) : option(7, infoData(name, infos(random))),
  )
  for (let i = random.next(20); i > 0; i--) messages.push(anyRequest(random, size, BigInt(i)))
  if (random.next(3) === 0) messages.push(request({ type: 2 }))
  return messages
}

function anyOption(random: Random, names: readonly string[]): Buffer {
  const pick = random.next(4)
  if (pick === 0) return option(6, infoData(names[random.next(names.length)] ?? '', infos(random)))
  if (pick === 1) return option(random.next(13), random.bytes(random.next(60)))
  return option(OPTIONS[random.next(OPTIONS.length)] ?? 0)
}

function infos(random: Random): number[] {
  return Array.from({ length: random.next(5) }, () => random.next(6))
}

function anyRequest(random: Random, size: number, cookie: bigint): Buffer {
  const type = COMMANDS[random.next(COMMANDS.length)] ?? 0
  const flags = random.next(4) === 0 ? 1 << random.next(7) : 0
  const longest = [600, 5000, 20_000, size][random.next(4)] ?? 1
  const offset = random.next(size)
  const length = random.next(Math.min(longest, size - offset + 3))
  const payload = type === 1 ? Buffer.alloc(length, 0x25) : Buffer.alloc(0)
  return Buffer.concat([request({ type, flags, cookie, offset, length }), payload])
}

function mutated(random: Random, options: StreamOptions): Buffer {
  const messages = session(random, options)
  for (let i = random.next(3); i > 0; i--) changeMessages(random, messages, options)
  let bytes: Buffer = Buffer.concat(messages).subarray(0, MAX_STREAM)
  for (let i = random.next(3); i > 0; i--) bytes = changeBytes(random, bytes)
  return bytes
}

/** One change to the order or the lengths of messages. */
function changeMessages(random: Random, messages: Buffer[], options: StreamOptions): void {
  const at = random.next(messages.length)
  const message = messages[at] ?? Buffer.alloc(0)
  switch (random.next(6)) {
    case 0: // repeated
      messages.splice(at, 0, ...Array.from({ length: 1 + random.next(40) }, () => message))
      break
    case 1: // lost
      messages.splice(at, 1)
      break
    case 2: // the end of another session
      messages.splice(at, messages.length, ...session(random, options).slice(random.next(4)))
      break
    case 3: // swapped
      messages.splice(at, 1)
      messages.splice(random.next(messages.length + 1), 0, message)
      break
    case 4: // another length, the data as they were
      messages[at] = withLength(random, message)
      break
    default: // noise in between
      messages.splice(at, 0, random.bytes(1 + random.next(50)))
  }
}

/** The length field of an option or a request, set to something likely to hurt. */
function withLength(random: Random, message: Buffer): Buffer {
  const changed = Buffer.from(message)
  const isOption = message.toString('latin1', 0, 8) === 'IHAVEOPT'
  const at = isOption ? (random.next(2) === 0 ? 12 : 16) : 24
  if (changed.length < at + 4) return changed
  const values = [...LENGTHS, ...EXTREMES, random.next(100)]
  changed.writeUInt32BE(values[random.next(values.length)] ?? 0, at)
  return changed
}

/** One change to the bytes as they are. */
function changeBytes(random: Random, bytes: Buffer): Buffer {
  if (bytes.length === 0) return bytes
  const changed = Buffer.from(bytes)
  const at = random.next(bytes.length)
  switch (random.next(5)) {
    case 0: // a bit
      changed[at] = (changed[at] ?? 0) ^ (1 << random.next(8))
      return changed
    case 1: // a byte
      changed[at] = [0, 1, 0x7f, 0x80, 0xff, random.next(256)][random.next(6)] ?? 0
      return changed
    case 2: // the end is missing
      return changed.subarray(0, at)
    case 3: // some bytes are missing
      return Buffer.concat([changed.subarray(0, at), changed.subarray(at + 1 + random.next(40))])
    default: // some bytes come twice
      return Buffer.concat([changed.subarray(0, at), changed.subarray(at - random.next(at + 1))])
  }
}

const MAGICS = ['49484156454f5054', '25609513', '21e41c71', '67446698', '4e42444d41474943']

function noise(random: Random): Buffer {
  const pieces: Buffer[] = random.next(2) === 0 ? [u32(3)] : []
  for (let i = random.next(6); i >= 0; i--) {
    pieces.push(hex(MAGICS[random.next(MAGICS.length)] ?? ''), u16(random.next(9)))
    pieces.push(random.bytes(random.next(300)))
  }
  return Buffer.concat(pieces)
}

function cutsOf(random: Random, length: number): number[] {
  const bytewise = random.next(6) === 0 && length < 2000
  const longest = bytewise ? 1 : ([7, 100, 5000, length + 1][random.next(4)] ?? 1)
  const cuts: number[] = []
  for (let at = 0; at < length;) {
    at = Math.min(length, at + 1 + (bytewise ? 0 : random.next(longest)))
    cuts.push(at)
  }
  return cuts
}
