/**
 * `demo`: the whole idea in one command. A server in a temporary folder, two related images imported over
 * HTTP and read over NBD and HTTP, the sharing table that comes out, and the addresses to try it by hand.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { AppError, formatSize, isAppError, MIB, parseDigest, parseRef } from '../../core/index.ts'
import type { Ref } from '../../core/index.ts'
import { loadConfig } from '../../server/config.ts'
import type { ListenAddress, ServerConfig } from '../../server/config.ts'
import type { Image, Sharing } from '../../server/http/schemas.ts'
import { runServer } from '../../server/index.ts'
import type { ReadyInfo } from '../../server/run-options.ts'
import { ApiClient } from '../api/client.ts'
import { openDirectory } from '../api/directory-source.ts'
import { download } from '../api/download.ts'
import { importArchive } from '../api/import.ts'
import { imagePath } from '../api/routes.ts'
import { readImage } from '../demo/read-image.ts'
import type { ReadResult } from '../demo/read-image.ts'
import { stageApplication, stageBase } from '../demo/stage-tree.ts'
import type { Invocation } from '../invocation.ts'
import { listenRefusal } from '../ports.ts'
import { Progress } from '../render/progress.ts'
import { renderFields } from '../render/table.ts'
import { summarizeReport } from '../render/import-report.ts'
import { renderSharing } from './sharing.ts'

export interface DemoOptions {
  readonly exit?: boolean
}

const BASE = parseRef('demo/base:1')
const APPLICATION = parseRef('demo/application:1')
const CACHE_BYTES = 128 * MIB

/** As it is typed: a checkout has the launcher, the package the command. */
const COMMAND = import.meta.url.endsWith('.ts') ? './commonpage' : 'commonpage'

export async function runDemo(invocation: Invocation, options: DemoOptions): Promise<void> {
  const { context, output } = invocation
  const folder = await mkdtemp(join(tmpdir(), 'commonpage-demo-'))
  try {
    output.say('commonpage demo: two related images, one memory\n')
    const tree = join(folder, 'tree')
    const staged = await stageBase(tree, context.signal)
    output.say(
      `a tree of ${staged.files} files of this machine (${formatSize(staged.sizeBytes)}) becomes demo/base:1`,
    )
    await using server = await startSomewhere(join(folder, 'data'), output.say.bind(output))
    const client = new ApiClient({ url: server.url, origin: 'the demo' }, context.signal)
    const demo = { invocation, client, nbd: server.ready.nbd, folder, tree }
    const base = await bring(demo, BASE)
    const added = await stageApplication(tree, context.signal)
    output.say(
      `\nthe same with ${added.files} files more (${formatSize(added.sizeBytes)}) becomes demo/application:1`,
    )
    const application = await bring(demo, APPLICATION)
    await report(invocation, client, base, application)
    await output.print(addresses(invocation, server, application))
    if (options.exit === true) {
      output.say('\nthese addresses end here; without --exit they stay up until Ctrl-C')
      return
    }
    output.say('\nthe server stays up until Ctrl-C')
    await Promise.race([aborted(context.signal), server.ended])
    output.say('\nstopping, and removing what the demo made')
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

interface RunningServer extends AsyncDisposable {
  readonly url: string
  readonly ready: ReadyInfo
  /** Settles when the server stops, by itself or because it was told to. */
  readonly ended: Promise<void>
}

/** On the default ports, or on free ones when somebody has them, or takes them in this moment. */
async function startSomewhere(data: string, say: (text: string) => void): Promise<RunningServer> {
  const http = await freePort({ host: '127.0.0.1', port: 8080 })
  const nbd = await freePort({ host: '127.0.0.1', port: 10809 })
  try {
    return await startServer(await demoConfig(data, http, nbd), say)
  } catch (error) {
    if (!isAppError(error) || error.code !== 'ERR_SERVER_LISTEN') throw error
    const free = { host: '127.0.0.1', port: 0 }
    return startServer(await demoConfig(data, free, free), say)
  }
}

async function demoConfig(
  data: string,
  http: ListenAddress,
  nbd: ListenAddress,
): Promise<ServerConfig> {
  const { config } = await loadConfig({
    flags: {
      data,
      'http.listen': `${http.host}:${http.port}`,
      'nbd.listen': `${nbd.host}:${nbd.port}`,
      'cache.size': String(CACHE_BYTES),
      'log.level': 'error',
    },
  })
  return config
}

/** The address, or any free port of its host when somebody has it. */
async function freePort(address: ListenAddress): Promise<ListenAddress> {
  return (await listenRefusal(address)) === undefined ? address : { host: address.host, port: 0 }
}

async function startServer(
  config: ServerConfig,
  say: (text: string) => void,
): Promise<RunningServer> {
  const stop = new AbortController()
  const { promise, resolve } = Promise.withResolvers<ReadyInfo>()
  const ended = runServer(config, { signal: stop.signal, onReady: resolve })
  // whoever waits for the end hears of a failure; nobody has to wait
  ended.catch(() => undefined)
  const ready = await Promise.race([
    promise,
    ended.then((): never => {
      throw new AppError('ERR_CLI_DEMO', 'the server stopped before it was ready')
    }),
  ])
  const url = `http://${ready.http.host}:${ready.http.port}`
  say(`serving on ${url}/ and nbd://${ready.nbd.host}:${ready.nbd.port}/`)
  return {
    url,
    ready,
    ended,
    async [Symbol.asyncDispose]() {
      stop.abort()
      await ended
    },
  }
}

interface Brought {
  readonly ref: Ref
  readonly image: Image
  readonly read: ReadResult
}

interface Demo {
  readonly invocation: Invocation
  readonly client: ApiClient
  readonly nbd: ListenAddress
  /** Of the demo: for what it has to keep for a while. */
  readonly folder: string
  readonly tree: string
}

/** Makes an image of the tree as it is now, then reads it. */
async function bring({ invocation, client, nbd, folder, tree }: Demo, ref: Ref): Promise<Brought> {
  const { context, output } = invocation
  const mode = output.quiet || context.stderr.isTTY !== true ? 'none' : 'tty'
  const progress = new Progress({ mode, stream: context.stderr })
  await using archive = await openDirectory(tree, context.env, context.signal)
  const imported = await importArchive(client, ref, { format: 'tar' }, archive, progress)
  output.say(`\n${summarizeReport(imported)}`)
  const image = await client.json<Image>(imagePath(ref))
  const [device] = image.devices
  if (device === undefined) throw new AppError('ERR_CLI_DEMO', `${image.ref} has no device`)
  const file = join(folder, 'image.erofs')
  const from = `${imagePath(ref)}/-/dev/0`
  const digest = parseDigest(device.digest)
  await download(client, { from, to: file, sizeBytes: device.sizeBytes, digest }, () => undefined)
  const read = await readImage({ client, nbd, ref, exportName: image.nbdExport, file, tree })
  output.say(
    `read its first ${formatSize(read.nbdBytes)} over NBD and ${read.files} of its files (${formatSize(read.fileBytes)}) over HTTP`,
  )
  return { ref, image, read }
}

/** The table, and in a sentence what it says. @throws ERR_CLI_DEMO when nothing was shared */
async function report(
  invocation: Invocation,
  client: ApiClient,
  base: Brought,
  application: Brought,
): Promise<void> {
  const { output } = invocation
  const sharing = await client.json<Sharing>('/v1/sharing')
  await output.print(`\n${renderSharing(sharing, output.style)}`)
  const second = sharing.images.find(({ digest }) => digest === application.image.digest)
  const first = sharing.images.find(({ digest }) => digest === base.image.digest)
  if (first === undefined || second === undefined || second.addedBytes >= second.touchedBytes) {
    throw new AppError('ERR_CLI_DEMO', 'the second image shared nothing with the first one')
  }
  output.say(
    `\nreading the second image touched ${formatSize(second.touchedBytes)} and added only ${formatSize(second.addedBytes)} to memory`,
  )
}

function addresses(
  invocation: Invocation,
  server: RunningServer,
  { ref, image, read }: Brought,
): string {
  const { style } = invocation.output
  const { host, port } = server.ready.nbd
  const path = imagePath(ref)
  const fields = renderFields(
    [
      ['dashboard', `${server.url}/`],
      ['metrics', `${server.url}/metrics`],
      ['NBD', `nbd://${host}:${port}/demo/base:1`],
      ['', `nbd://${host}:${port}/${image.nbdExport}`],
      ['a file', read.examplePath && `curl '${server.url}${path}/-/files/${read.examplePath}'`],
      ['a range', `curl -sr 1024-1151 '${server.url}${path}/-/raw' | od -A x -t x1z`],
      ['the files', `${COMMAND} image tree demo/application:1 --server ${server.url}`],
      ['live table', `${COMMAND} sharing --watch --server ${server.url}`],
      [
        'mount',
        `sudo nbd-client ${host} ${port} /dev/nbd0 -name demo/application:1 -readonly && sudo mount -t erofs -o ro /dev/nbd0 /mnt`,
      ],
    ],
    style,
  )
  return `\n${fields}`
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve()
  return new Promise((resolve) => {
    signal.addEventListener('abort', () => resolve(), { once: true })
  })
}
