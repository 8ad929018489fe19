/**
 * What clients of a server know: what it acknowledged, and what they asked for and got no answer to. Says what a
 * server that was killed may show afterwards. It makes no request.
 */
import assert from 'node:assert/strict'

/** sha256 of an image's only device, in hex: what the image is, whoever imported it. */
export type Content = string

/** A change of one tag; `undefined` removes it. */
interface TagState {
  acknowledged: Content | undefined
  /** What was asked for and not answered. One at a time: a tag belongs to one client. */
  asked: { readonly content: Content | undefined } | undefined
}

export class History {
  readonly #tags = new Map<string, TagState>()
  /** Images by the digest that an acknowledgement named. */
  readonly #images = new Map<string, Content>()

  /** What a client may take for granted, as the owner of the tag. */
  current(tag: string): Content | undefined {
    return this.#state(tag).acknowledged
  }

  ask(tag: string, content: Content | undefined): void {
    const state = this.#state(tag)
    assert.equal(state.asked, undefined, `two changes of ${tag} at once`)
    state.asked = { content }
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
   * @returns how many unanswered changes had been made, and how many had not
   */
  settle(found: ReadonlyMap<string, Content>): { made: number; notMade: number } {
    for (const tag of found.keys()) assert.ok(this.#tags.has(tag), `${tag} was never asked for`)
    let made = 0
    let notMade = 0
    for (const [tag, state] of this.#tags) {
      const { acknowledged, asked } = state
      const content = found.get(tag)
      const allowed = asked === undefined ? [acknowledged] : [acknowledged, asked.content]
      assert.ok(
        allowed.includes(content),
        `${tag} is ${content ?? 'absent'}, expected ${allowed.map((one) => one ?? 'absent').join(' or ')}`,
      )
      if (asked !== undefined && asked.content !== acknowledged) {
        if (content === acknowledged) notMade++
        else made++
      }
      state.acknowledged = content
      state.asked = undefined
    }
    return { made, notMade }
  }

  #state(tag: string): TagState {
    const state = this.#tags.get(tag) ?? { acknowledged: undefined, asked: undefined }
    this.#tags.set(tag, state)
    return state
  }
}
