/**
 * `sharing`: the table of the idea, live. For each image the bytes that its readers touched and the bytes
 * that had to come into memory for it; the difference is what sharing saved.
 */
import { setTimeout as wait } from 'node:timers/promises'

import { formatSize } from '../../core/index.ts'
import type { Sharing, SharingRow } from '../../server/http/schemas.ts'
import { unknownDomain } from '../api/domains.ts'
import { query } from '../api/routes.ts'
import type { Invocation } from '../invocation.ts'
import { PLAIN_STYLE } from '../render/style.ts'
import type { Style } from '../render/style.ts'
import { renderTable } from '../render/table.ts'
import type { Column } from '../render/table.ts'
import { formatCount, relativeTime, shortRef } from '../render/text.ts'

export interface SharingOptions {
  readonly domain?: string
  readonly reset?: boolean
  readonly watch?: boolean
  /** Milliseconds between two tables of --watch. */
  readonly interval: number
}

const CLEAR_SCREEN = '\u001b[H\u001b[2J'

const COLUMNS: readonly Column<SharingRow>[] = [
  { header: 'image', value: (row) => shortRef(row.ref) },
  { header: 'touched', value: (row) => formatSize(row.touchedBytes), align: 'right' },
  { header: 'added', value: (row) => formatSize(row.addedBytes), align: 'right' },
  {
    header: 'saved',
    value: (row) => formatSize(row.touchedBytes - row.addedBytes),
    align: 'right',
  },
  { header: 'shared hits', value: (row) => formatCount(row.sharedHits), align: 'right' },
  { header: 'resident', value: (row) => formatSize(row.residentBytes), align: 'right' },
]

export async function runSharing(invocation: Invocation, options: SharingOptions): Promise<void> {
  const { client, output } = invocation
  if (options.reset === true) {
    const fresh = await client.json<Sharing>('/v1/sharing/reset', { method: 'POST' })
    if (invocation.json) return output.printJson(fresh)
    output.say(`a new epoch started at ${fresh.epochStartedAt}`)
    return
  }
  const path = query('/v1/sharing', { domain: options.domain })
  if (options.watch !== true) {
    const sharing = await client.json<Sharing>(path)
    if (invocation.json) return output.printJson(sharing)
    const { domain } = options
    if (sharing.images.length === 0 && domain !== undefined) {
      const unknown = await unknownDomain(client, domain)
      if (unknown !== undefined) return output.say(unknown)
    }
    return output.print(renderSharing(sharing, output.style, Date.now()))
  }
  const redraw = invocation.context.stdout.isTTY === true && !invocation.json
  for (;;) {
    const sharing = await client.json<Sharing>(path)
    if (invocation.json) {
      await output.print(JSON.stringify(sharing))
    } else {
      const table = renderSharing(sharing, output.style, Date.now())
      await output.print(redraw ? CLEAR_SCREEN + table : `${table}\n`)
    }
    await wait(options.interval, undefined, { signal: invocation.signal })
  }
}

/** Also what the demo prints. */
export function renderSharing(
  sharing: Sharing,
  style: Style = PLAIN_STYLE,
  now = Date.now(),
): string {
  if (sharing.images.length === 0) {
    return 'nothing was read in this epoch yet: open an image over NBD or HTTP and look again'
  }
  const touched = sum(sharing.images, (row) => row.touchedBytes)
  const added = sum(sharing.images, (row) => row.addedBytes)
  const table = renderTable(COLUMNS, sharing.images, {
    style,
    totals: [
      'total',
      formatSize(touched),
      formatSize(added),
      formatSize(touched - added),
      formatCount(sum(sharing.images, (row) => row.sharedHits)),
      formatSize(sharing.residentBytes),
    ],
  })
  const unattributed =
    sharing.unattributedBytes > 0
      ? `, and ${formatSize(sharing.unattributedBytes)} came in for no image yet`
      : ''
  const readAhead = sharing.images.some((row) => row.addedBytes > row.touchedBytes)
  return [
    table,
    '',
    `${style.bold(`saved ${formatSize(touched - added)}`)}: readers touched ${formatSize(touched)}, memory took ${formatSize(added)}${unattributed}`,
    ...(readAhead
      ? [style.dim('where more was added than touched, it was read ahead and not wanted yet')]
      : []),
    style.dim(
      `since ${relativeTime(sharing.epochStartedAt, now)}; cache ${formatSize(sharing.residentBytes)} of ${formatSize(sharing.capacityBytes)}`,
    ),
  ].join('\n')
}

function sum(rows: readonly SharingRow[], value: (row: SharingRow) => number): number {
  return rows.reduce((total, row) => total + value(row), 0)
}
