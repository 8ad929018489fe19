/**
 * A small checkout with the real launcher and bootstrap, an npm that only pretends, and a Node that claims to
 * be version 99: shows what is installed when, without a network. Only what is put on the PATH exists.
 */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { chmod, copyFile, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { findCommand } from '../../scripts/debian-packages.ts'
import { ROOT } from '../../scripts/steps.ts'

const TOOLS = ['sh', 'flock', 'dirname', 'readlink', 'mkdir', 'rm', 'cp', 'sleep', 'cat', 'chmod']
const PLATFORM_PACKAGE = `node-${process.platform}-${process.arch}`

/** Claims to be 99.1.0, and is the Node that runs the tests. */
const NODE_99 = `#!/bin/sh
if [ "$1" = -p ]; then echo 99.1.0; else exec '${process.execPath}' "$@"; fi
`

/** Logs its arguments; \`ci\` and \`install\` leave behind what npm would. */
const NPM = `#!/bin/sh
echo "$@" >>"$FAKE_ROOT/npm.log"
place_node() { mkdir -p "$1/bin" && cp "$FAKE_ROOT/node99" "$1/bin/node" && chmod +x "$1/bin/node"; }
case "$1" in
  config) echo "$FAKE_ROOT/npm-cache" ;;
  ci)
    if [ -n "$FAKE_NPM_FAILS" ]; then echo 'npm error EAI_AGAIN' >&2; exit 1; fi
    echo 'chatter on stdout'
    rm -rf node_modules && mkdir node_modules && sleep 0.3
    if [ -z "$FAKE_NO_SCRIPTS" ]; then place_node node_modules/node; fi
    cp package-lock.json node_modules/.package-lock.json ;;
  install) place_node node_modules/${PLATFORM_PACKAGE} ;;
esac
`

/** Shows what the program was started with; ends as it is told, or waits for a signal. */
const PROGRAM = `
console.log(JSON.stringify({
  args: process.argv.slice(2), cwd: process.cwd(), pool: process.env.UV_THREADPOOL_SIZE, pid: process.pid,
}))
if (process.argv[2] === 'wait') setInterval(() => {}, 1000)
else process.exitCode = Number(process.argv[2] ?? 0)
`

export interface Outcome {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

export interface LockedPackage {
  readonly version: string
  readonly dev?: boolean
  readonly optional?: boolean
}

export class FakeCheckout implements AsyncDisposable {
  /** Has a space in its name. */
  readonly root: string
  readonly #top: string
  /** Given to every command, besides PATH. */
  readonly env: Record<string, string>

  private constructor(top: string) {
    this.#top = top
    this.root = join(top, 'a checkout')
    this.env = { FAKE_ROOT: top, HOME: join(top, 'home') }
  }

  static async create(): Promise<FakeCheckout> {
    const checkout = new FakeCheckout(await mkdtemp(join(tmpdir(), 'commonpage-checkout-')))
    await checkout.#fill()
    return checkout
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#top, { recursive: true, force: true })
  }

  async #fill(): Promise<void> {
    const bin = join(this.#top, 'bin')
    for (const folder of [bin, join(this.root, 'scripts'), join(this.root, 'src/cli')]) {
      await mkdir(folder, { recursive: true })
    }
    for (const tool of TOOLS) {
      const path = findCommand(tool)
      if (path === undefined) throw new Error(`this machine has no ${tool}`)
      await symlink(path, join(bin, tool))
    }
    await symlink(process.execPath, join(bin, 'node'))
    await writeFile(join(this.#top, 'node99'), NODE_99)
    await writeFile(join(bin, 'npm'), NPM)
    await chmod(join(bin, 'npm'), 0o755)
    for (const file of ['commonpage', 'scripts/bootstrap.js']) {
      await copyFile(join(ROOT, file), join(this.root, file))
    }
    const manifest = {
      type: 'module',
      engines: { node: '>=99' },
      devDependencies: { node: '99.1.0' },
    }
    await writeFile(join(this.root, 'package.json'), JSON.stringify(manifest))
    for (const file of ['src/cli/main.ts', 'scripts/show.ts']) {
      await writeFile(join(this.root, file), PROGRAM)
    }
    await this.lock({ a: { version: '1.0.0' }, b: { version: '1.0.0', dev: true } })
  }

  async lock(packages: Readonly<Record<string, LockedPackage>>): Promise<void> {
    const entries = Object.entries(packages).map(([name, entry]) => [`node_modules/${name}`, entry])
    const text = JSON.stringify({ packages: { '': {}, ...Object.fromEntries(entries) } })
    await writeFile(join(this.root, 'package-lock.json'), text)
  }

  /** The npm commands so far, without looking up the cache. */
  async npmCalls(): Promise<string[]> {
    const log = await readFile(join(this.#top, 'npm.log'), 'utf8').catch(() => '')
    return log
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('config'))
      .map((line) =>
        line
          .split(' ')
          .filter((word) => !word.startsWith('--'))
          .join(' '),
      )
  }

  async removeTool(name: string): Promise<void> {
    await rm(join(this.#top, 'bin', name))
  }

  start(command: string, args: readonly string[], options: { cwd?: string } = {}): ChildProcess {
    return spawn(command, args, {
      cwd: options.cwd ?? this.root,
      env: { ...this.env, PATH: join(this.#top, 'bin') },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
  }

  async run(
    command: string,
    args: readonly string[],
    options: { cwd?: string } = {},
  ): Promise<Outcome> {
    const child = this.start(command, args, options)
    let stdout = ''
    let stderr = ''
    child.stdout?.setEncoding('utf8').on('data', (text: string) => (stdout += text))
    child.stderr?.setEncoding('utf8').on('data', (text: string) => (stderr += text))
    await once(child, 'close')
    return { code: child.exitCode, signal: child.signalCode, stdout, stderr }
  }

  bootstrap(...args: string[]): Promise<Outcome> {
    return this.run(process.execPath, [join(this.root, 'scripts/bootstrap.js'), ...args])
  }

  launch(...args: string[]): Promise<Outcome> {
    return this.run(join(this.root, 'commonpage'), args)
  }
}
