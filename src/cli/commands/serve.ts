/** `serve`: reads the configuration, runs the server until a signal, says where it listens and how it went. */
import { formatDuration, formatSize } from '../../core/index.ts'
import { isLoopback, loadConfig } from '../../server/config.ts'
import type { ListenAddress, LoadedConfig, SettingPath } from '../../server/config.ts'
import type { ReadyInfo, ServerSummary } from '../../server/run-options.ts'
import type { Invocation } from '../invocation.ts'
import { plural } from '../render/text.ts'

export interface ServerFlags {
  readonly config?: string
  readonly flags: Readonly<Partial<Record<SettingPath, string | boolean>>>
}

export async function runServe(invocation: Invocation, options: ServerFlags): Promise<void> {
  const { context, output } = invocation
  const startedAt = performance.now()
  const file = options.config ?? context.env['COMMONPAGE_CONFIG']
  const loaded = await loadConfig({
    flags: options.flags,
    env: context.env,
    ...(file === undefined ? {} : { file }),
  })
  // a mistake in the settings is told before the whole server is loaded
  const { runServer } = await import('../../server/index.ts')
  await runServer(loaded.config, {
    signal: context.signal,
    onReady: (info) => output.say(describeStart(info, loaded, performance.now() - startedAt)),
    onStopped: (summary) => output.say(describeStop(summary)),
  })
}

/** At most eight lines. */
export function describeStart(info: ReadyInfo, loaded: LoadedConfig, elapsedMs: number): string {
  const { config } = loaded
  const http = `http://${reachable(info.http)}/`
  const lines = [
    `commonpage ${info.version}, configuration: ${loaded.file ?? 'built-in defaults'}, data: ${config.data}`,
    `dashboard and API  ${http}`,
    `NBD                nbd://${reachable(info.nbd)}/`,
    ...(info.nbdSocket === undefined
      ? []
      : [`NBD socket         nbd+unix:///?socket=${encodeURIComponent(info.nbdSocket)}`]),
    `cache              ${formatSize(config.cacheSize)} (${config.cacheSizeReason})`,
    `store              ${info.images === 0 ? 'empty: `commonpage import erofs FILE DOMAIN/NAME`' : plural(info.images, 'image')}`,
  ]
  const exposed = [info.http, info.nbd].filter(({ host }) => !isLoopback(host))
  if (exposed.length > 0) {
    lines.push(
      'insecure: whoever reaches these ports can read, replace and delete every image; there is no authentication',
    )
  }
  return [...lines, `ready in ${formatDuration(elapsedMs)}`].join('\n')
}

export function describeStop(summary: ServerSummary): string {
  const hits =
    summary.hitRatio === undefined ? '' : `, ${(summary.hitRatio * 100).toFixed(1)} % hits`
  return `stopped after ${formatDuration(summary.uptimeMs)}: served ${formatSize(summary.servedBytes)}${hits}, ${plural(summary.evictions, 'eviction')}`
}

/** A wildcard address is no address to click on. */
function reachable(address: ListenAddress): string {
  const host = address.host === '0.0.0.0' || address.host === '::' ? 'localhost' : address.host
  return `${host.includes(':') ? `[${host}]` : host}:${address.port}`
}
