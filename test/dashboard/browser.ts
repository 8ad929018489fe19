/** Drives a headless Chromium by its debugging protocol: enough to look at a page, nothing more. */
import type { ChildProcess } from 'node:child_process'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

const FLAGS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--hide-scrollbars',
  '--remote-debugging-port=0',
]

export function hasChromium(): boolean {
  return spawnSync('chromium', ['--version']).status === 0
}

type Reply = {
  id?: number
  method?: string
  params?: unknown
  result?: unknown
  error?: unknown
  sessionId?: string
}

export class Browser implements AsyncDisposable {
  readonly #process: ChildProcess
  readonly #profile: string
  readonly #socket: WebSocket
  readonly #pending = new Map<number, (reply: Reply) => void>()
  readonly #events: (reply: Reply) => void
  #next = 0

  constructor(
    process: ChildProcess,
    profile: string,
    socket: WebSocket,
    onEvent: (reply: Reply) => void,
  ) {
    this.#process = process
    this.#profile = profile
    this.#socket = socket
    this.#events = onEvent
    socket.addEventListener('message', (event) => {
      const reply = JSON.parse(String(event.data)) as Reply
      if (reply.id === undefined) this.#events(reply)
      else this.#pending.get(reply.id)?.(reply)
    })
  }

  static async open(onEvent: (reply: Reply) => void): Promise<Browser> {
    const profile = await mkdtemp(join(tmpdir(), 'commonpage-chromium-'))
    const child = spawn('chromium', [...FLAGS, `--user-data-dir=${profile}`, 'about:blank'], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    for await (const line of createInterface({ input: child.stderr })) {
      const [, url] = /DevTools listening on (ws:\S+)/.exec(line) ?? []
      if (url === undefined) continue
      child.stderr.resume()
      const socket = new WebSocket(url)
      await once(socket, 'open')
      return new Browser(child, profile, socket, onEvent)
    }
    throw new Error('chromium did not start')
  }

  async send(
    method: string,
    params: object = {},
    sessionId?: string,
  ): Promise<Record<string, unknown>> {
    const id = ++this.#next
    const reply = await new Promise<Reply>((resolve) => {
      this.#pending.set(id, resolve)
      this.#socket.send(
        JSON.stringify({ id, method, params, ...(sessionId === undefined ? {} : { sessionId }) }),
      )
    })
    this.#pending.delete(id)
    if (reply.error !== undefined) throw new Error(`${method}: ${JSON.stringify(reply.error)}`)
    return Object(reply.result) as Record<string, unknown>
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const exited = once(this.#process, 'exit')
    this.#process.kill()
    await exited
    await rm(this.#profile, { recursive: true, force: true, maxRetries: 5 })
  }
}

/** A page with what it complained about. */
export class Page implements AsyncDisposable {
  readonly complaints: string[]
  readonly #browser: Browser
  readonly #session: string

  constructor(browser: Browser, session: string, complaints: string[]) {
    this.#browser = browser
    this.#session = session
    this.complaints = complaints
  }

  static async open(options: { width: number; height: number; dark: boolean }): Promise<Page> {
    const complaints: string[] = []
    const browser = await Browser.open((event) => {
      if (event.method === 'Runtime.exceptionThrown') complaints.push(JSON.stringify(event.params))
      if (event.method === 'Log.entryAdded') complaints.push(JSON.stringify(event.params))
    })
    const { targetId } = await browser.send('Target.createTarget', { url: 'about:blank' })
    const { sessionId } = await browser.send('Target.attachToTarget', { targetId, flatten: true })
    const page = new Page(browser, String(sessionId), complaints)
    await page.#send('Runtime.enable')
    await page.#send('Log.enable')
    await page.#send('Page.enable')
    await page.#send('Emulation.setDeviceMetricsOverride', {
      width: options.width,
      height: options.height,
      deviceScaleFactor: 1,
      mobile: false,
    })
    await page.#send('Emulation.setEmulatedMedia', {
      features: [{ name: 'prefers-color-scheme', value: options.dark ? 'dark' : 'light' }],
    })
    return page
  }

  async go(url: string): Promise<void> {
    await this.#send('Page.navigate', { url })
  }

  /** The value of an expression in the page. */
  async evaluate(expression: string): Promise<unknown> {
    const { result } = await this.#send('Runtime.evaluate', {
      expression,
      returnByValue: true,
      awaitPromise: true,
    })
    return Object(result).value
  }

  /** Resolves when the expression is true in the page, asked each frame. */
  async until(expression: string): Promise<void> {
    await this.evaluate(`new Promise((resolve, reject) => {
      const deadline = performance.now() + 15_000
      const look = () => {
        if (${expression}) resolve()
        else if (performance.now() > deadline) reject(new Error('never true'))
        else setTimeout(look, 20)
      }
      look()
    })`)
    if ((await this.evaluate(expression)) !== true) throw new Error(`never true: ${expression}`)
  }

  async screenshot(): Promise<Buffer> {
    const { data } = await this.#send('Page.captureScreenshot', { format: 'png' })
    return Buffer.from(String(data), 'base64')
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#browser[Symbol.asyncDispose]()
  }

  #send(method: string, params: object = {}): Promise<Record<string, unknown>> {
    return this.#browser.send(method, params, this.#session)
  }
}
