/**
 * The names under which the server may be asked. A page on the web can make a name of its own resolve to
 * 127.0.0.1 (DNS rebinding): for a browser, what it then reads there is the page's own site, and no check of the
 * Origin header notices. The Host header has that name, so a server that only this machine reaches takes no
 * names but its own. Whether there is a list at all is the configuration's decision. Pure.
 */
import { isIP } from 'node:net'

import { AppError } from '../../core/index.ts'

export class AllowedHosts {
  readonly #names: ReadonlySet<string>
  readonly #suffixes: readonly string[]
  /** What was accepted last: clients repeat themselves. */
  #accepted = ''

  /** @param names further names; `*.NAME` stands for all names below NAME */
  constructor(names: readonly string[]) {
    const known = ['localhost', '*.localhost', ...names.map((name) => name.toLowerCase())]
    this.#names = new Set(known.filter((name) => !name.startsWith('*.')))
    this.#suffixes = known.filter((name) => name.startsWith('*.')).map((name) => name.slice(1))
  }

  /**
   * @param host the Host header, or the authority of a target in absolute-form; nothing comes from programs only
   * @throws ERR_HTTP_HOST_NOT_ALLOWED
   */
  check(host: string | undefined): void {
    if (host === undefined || host === '' || host === this.#accepted) return
    if (!this.#accepts(host)) {
      throw new AppError('ERR_HTTP_HOST_NOT_ALLOWED', `this server is not '${host}'`, {
        hint: 'ask by address or as localhost, or start the server with --http-allowed-hosts',
      })
    }
    this.#accepted = host
  }

  /** Addresses are what they say: only names can be made to mean another machine. */
  #accepts(host: string): boolean {
    const parsed = URL.parse(`http://${host}/`)
    if (parsed === null) return false
    const name = parsed.hostname.replace(/\.$/, '')
    if (isIP(name.replace(/^\[|\]$/g, '')) !== 0 || this.#names.has(name)) return true
    return this.#suffixes.some((suffix) => name.endsWith(suffix) && name.length > suffix.length)
  }
}
