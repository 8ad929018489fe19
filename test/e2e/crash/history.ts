/**
 * What clients of a server know: what it acknowledged, and what they asked for and got no answer to. Says what a
 * server that was killed may show afterwards. It makes no request.
 */
import assert from 'node:assert/strict'

/** sha256 of an image's only device, in hex: what the image is, whoever imported it. */
export type Content = string

/** How a tag comes to change. */
export const CHANGES = ['import', 'move', 'removal'] as const
export type Change = (typeof CHANGES)[number]

/** What a tag is to name; `undefined`: to be gone. */
interface Asked {
  readonly change: Change
  readonly content: Content | undefined
}

interface TagState {
  acknowledged: Content | undefined
  /** What was asked for and not answered. One at a time: a tag belongs to one client. */
  asked: Asked | undefined
}

/** Of the changes that got no answer: how many had been made, and how many had not. */
export interface Interrupted {
  made: number
  notMade: number
}

export type InterruptedChanges = Record<Change, Interrupted>

export function noChanges(): InterruptedChanges {
  return {
    import: { made: 0, notMade: 0 },
    move: { made: 0, notMade: 0 },
    removal: { made: 0, notMade: 0 },
  }
}

export class History {
  readonly #tags = new Map<string, TagState>()
  /** Images by the digest that an acknowledgement named. */
  readonly #images = new Map<string, Content>()

  /** What a client may take for granted, as the owner of the tag. */
  current(tag: string): Content | undefined {
    return this.#state(tag).acknowledged
  }

  ask(tag: string, change: Change, content: Content | undefined): void {
    const state = this.#state(tag)
    assert.equal(state.asked, undefined, `two changes of ${tag} at once`)
    state.asked = { change, content }
  }

  /** The question reached nobody: nothing may have come of it. */
  withdraw(tag: string): void {
    this.#state(tag).asked = undefined
  }

  /** The change that was asked for is promised from now on. */
  acknowledge(tag: string): void {
    const state = this.#state(tag)
    assert.ok(state.asked !== undefined, `nothing was asked of ${tag}`)
    state.acknowledged = state.asked.content
    state.asked = undefined
  }

  acknowledgeImage(digest: string, content: Content): void {
    assert.equal(this.#images.get(digest) ?? content, content, `${digest} names two images`)
    this.#images.set(digest, content)
  }

  /** Images that must be readable by digest. */
  images(): [digest: string, content: Content][] {
    return [...this.#images]
  }

  /**
   * Compares a list with what may be there: each tag as it was acknowledged, or as it was asked to be. What was
   * found is what counts from then on.
   *
   * @returns the changes that got no answer; not those that would have left the tag as it was
   */
  settle(found: ReadonlyMap<string, Content>): InterruptedChanges {
    for (const tag of found.keys()) assert.ok(this.#tags.has(tag), `${tag} was never asked for`)
    const interrupted = noChanges()
    for (const [tag, state] of this.#tags) {
      const { acknowledged, asked } = state
      const content = found.get(tag)
      const allowed = asked === undefined ? [acknowledged] : [acknowledged, asked.content]
      assert.ok(
        allowed.includes(content),
        `${tag} is ${content ?? 'absent'}, expected ${allowed.map((one) => one ?? 'absent').join(' or ')}`,
      )
      if (asked !== undefined && asked.content !== acknowledged) {
        interrupted[asked.change][content === acknowledged ? 'notMade' : 'made']++
      }
      state.acknowledged = content
      state.asked = undefined
    }
    return interrupted
  }

  #state(tag: string): TagState {
    const state = this.#tags.get(tag) ?? { acknowledged: undefined, asked: undefined }
    this.#tags.set(tag, state)
    return state
  }
}
