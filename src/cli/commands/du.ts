/** `du`: what each image says, stores, shares and holds in memory, and the totals. */
import { formatSize, parseRef } from '../../core/index.ts'
import type { DiskUsage } from '../../server/http/schemas.ts'
import { unknownDomain } from '../api/domains.ts'
import { query } from '../api/routes.ts'
import type { Invocation } from '../invocation.ts'
import { renderTable } from '../render/table.ts'
import type { Column } from '../render/table.ts'
import { plural, shortRef } from '../render/text.ts'

type Row = DiskUsage['images'][number]

const COLUMNS: readonly Column<Row>[] = [
  { header: 'image', value: (row) => shortRef(row.ref) },
  { header: 'logical', value: (row) => formatSize(row.logicalBytes), align: 'right' },
  { header: 'stored', value: (row) => formatSize(row.storedBytes), align: 'right' },
  { header: 'unique', value: (row) => formatSize(row.uniqueBytes), align: 'right' },
  { header: 'shared', value: (row) => formatSize(row.sharedBytes), align: 'right' },
  { header: 'resident', value: (row) => formatSize(row.residentBytes), align: 'right' },
]

export async function runDu(
  invocation: Invocation,
  options: { readonly domain?: string },
): Promise<void> {
  const { output } = invocation
  const usage = await invocation.client.json<DiskUsage>(query('/v1/du', { domain: options.domain }))
  if (invocation.json) return output.printJson(usage)
  if (usage.images.length === 0) {
    const { domain } = options
    const unknown =
      domain === undefined ? undefined : await unknownDomain(invocation.client, domain)
    output.say(
      unknown ??
        'nothing is stored yet: `commonpage import erofs FILE DOMAIN/NAME` brings the first image',
    )
    return
  }
  const { totals } = usage
  const table = renderTable(COLUMNS, usage.images, {
    style: output.style,
    totals: [
      'total',
      formatSize(totals.logicalBytes),
      formatSize(totals.storedBytes),
      formatSize(uniqueTotal(usage.images)),
      '',
      formatSize(totals.residentBytes),
    ],
  })
  await output.print(table)
  await output.print(`\n${plural(totals.images, 'image')} in ${plural(totals.blobs, 'blob')}`)
}

/** An image counts once, however many of its tags have a row. */
function uniqueTotal(rows: readonly Row[]): number {
  const images = new Map(
    rows.map(({ ref, digest, uniqueBytes }) => [`${parseRef(ref).domain}/${digest}`, uniqueBytes]),
  )
  return [...images.values()].reduce((sum, bytes) => sum + bytes, 0)
}
