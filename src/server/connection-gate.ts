/**
 * How many connections the server takes, in total and of one peer, counted over all data workers in shared
 * memory. One gate for each protocol. It closes nothing: whoever accepts a connection asks.
 *
 * Peers are counted as in a count-min sketch: each address has two counters, chosen by keyed hashes, and its
 * count is taken as the smaller one. Two peers with both counters in common would be counted together; with
 * some thousand connections that meets one pair in a million, and the key, new in each run, keeps a client from
 * choosing such addresses. So the table needs no locks and its size does not depend on who connects.
 */
import { createHash, randomBytes } from 'node:crypto'
import { isIPv6 } from 'node:net'

/** Counters of peers; a power of two. */
const PEER_COUNTERS = 32_768
const TOTAL = PEER_COUNTERS
const KEY_BYTES = 16
/** An IPv6 customer has at least a /64: addresses inside one are one peer. */
const IPV6_PEER_GROUPS = 4

/** Structured-cloneable; the buffer stays shared. */
export interface ConnectionGateMemory {
  readonly buffer: SharedArrayBuffer
  readonly key: Uint8Array
  readonly max: number
  readonly maxPerPeer: number
}

export function createConnectionGate(max: number, maxPerPeer: number): ConnectionGateMemory {
  const buffer = new SharedArrayBuffer((PEER_COUNTERS + 1) * 4)
  return { buffer, key: new Uint8Array(randomBytes(KEY_BYTES)), max, maxPerPeer }
}

/** Connections inside, of all threads. */
export function connectionsInside({ buffer }: ConnectionGateMemory): number {
  return Atomics.load(new Int32Array(buffer), TOTAL)
}

export class ConnectionGate {
  readonly #memory: ConnectionGateMemory
  readonly #counters: Int32Array
  /** What each connection of this thread has counted. */
  readonly #inside = new Map<object, readonly number[]>()

  constructor(memory: ConnectionGateMemory) {
    this.#memory = memory
    this.#counters = new Int32Array(memory.buffer)
  }

  /** Connections of this thread. */
  get size(): number {
    return this.#inside.size
  }

  /**
   * Takes a place for a connection. False: there is none, and nothing is held.
   * @param address undefined on Unix sockets, which count in total only
   */
  enter(connection: object, address: string | undefined): boolean {
    const { max, maxPerPeer } = this.#memory
    const slots = address === undefined ? [] : this.#slots(peerOf(address))
    const total = Atomics.add(this.#counters, TOTAL, 1)
    const counts = slots.map((slot) => Atomics.add(this.#counters, slot, 1))
    const held = [TOTAL, ...slots]
    const ofPeer = counts.length === 0 ? 0 : Math.min(...counts)
    if (total >= max || ofPeer >= maxPerPeer) {
      this.#give(held)
      return false
    }
    this.#inside.set(connection, held)
    return true
  }

  /** Gives the place back. Connections that have none are fine. */
  leave(connection: object): void {
    const held = this.#inside.get(connection)
    if (held === undefined) return
    this.#inside.delete(connection)
    this.#give(held)
  }

  #give(held: readonly number[]): void {
    for (const slot of held) Atomics.sub(this.#counters, slot, 1)
  }

  #slots(peer: string): number[] {
    const hash = createHash('sha256').update(this.#memory.key).update(peer).digest()
    const first = hash.readUInt32LE(0) % PEER_COUNTERS
    const second = hash.readUInt32LE(4) % PEER_COUNTERS
    return first === second ? [first] : [first, second]
  }
}

/** What counts as one peer: an IPv4 address, or the /64 of an IPv6 address. */
export function peerOf(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1]
  if (mapped !== undefined) return mapped
  const [plain = address] = address.split('%')
  if (!isIPv6(plain)) return address
  const [head = '', tail] = plain.toLowerCase().split('::')
  const groups = head === '' ? [] : head.split(':')
  if (tail !== undefined) {
    const rest = tail === '' ? 0 : tail.split(':').length
    while (groups.length + rest < 8) groups.push('0')
    if (tail !== '') groups.push(...tail.split(':'))
  }
  return groups
    .slice(0, IPV6_PEER_GROUPS)
    .map((group) => group.replace(/^0+(?=.)/, ''))
    .join(':')
}
