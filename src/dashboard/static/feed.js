/**
 * Follows the server's live feed: keeps the state whole by snapshots and merge patches, asks again after a
 * gap, reconnects with growing pauses, and falls back to nothing but the truth: when no message comes, the
 * state is called stale.
 */
const FIRST_PAUSE_MS = 500
const LONGEST_PAUSE_MS = 15_000
/** Messages come each second; after so many missed ones the numbers are old. */
const STALE_AFTER_INTERVALS = 4

/** RFC 7396 §2. @returns {unknown} */
export function applyPatch(target, patch) {
  if (typeof patch !== 'object' || patch === null || Array.isArray(patch)) return patch
  const result = typeof target === 'object' && target !== null ? { ...target } : {}
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete result[key]
    else result[key] = applyPatch(result[key], value)
  }
  return result
}

/** The state as it follows from messages; pure but for what it remembers. */
export class FeedState {
  state
  #seq = 0

  /** Takes a message. @returns {'ignored' | 'updated' | 'gap'} */
  take(message) {
    if (message.type === 'snapshot') {
      this.#seq = message.seq
      this.state = message.state
      return 'updated'
    }
    if (message.type !== 'delta' || this.state === undefined) return 'ignored'
    if (message.seq !== this.#seq + 1) {
      this.state = undefined
      return 'gap'
    }
    this.#seq = message.seq
    this.state = applyPatch(this.state, message.patch)
    return 'updated'
  }
}

/**
 * @param {string} url of the WebSocket
 * @param {{ onState(state: object): void, onStatus(status: 'loading' | 'live' | 'stale' | 'error', since: number): void }} handler
 */
export function followFeed(url, handler) {
  let pause = FIRST_PAUSE_MS
  let lastMessage = 0
  let staleMs = STALE_AFTER_INTERVALS * 1000

  const connect = () => {
    const socket = new WebSocket(url)
    const feed = new FeedState()
    socket.addEventListener('message', (event) => {
      const message = JSON.parse(event.data)
      lastMessage = Date.now()
      if (message.type === 'hello') staleMs = STALE_AFTER_INTERVALS * message.intervalMs
      const result = feed.take(message)
      if (result === 'gap') socket.send(JSON.stringify({ type: 'resync' }))
      if (result !== 'updated') return
      pause = FIRST_PAUSE_MS
      handler.onStatus('live', lastMessage)
      handler.onState(feed.state)
    })
    socket.addEventListener('close', () => {
      handler.onStatus('error', lastMessage)
      setTimeout(connect, pause)
      pause = Math.min(pause * 2, LONGEST_PAUSE_MS)
    })
  }

  setInterval(() => {
    if (lastMessage > 0 && Date.now() - lastMessage > staleMs)
      handler.onStatus('stale', lastMessage)
  }, 1000)
  connect()
}
