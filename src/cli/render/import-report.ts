/** What an import brought, for people. */
import { formatSize } from '../../core/index.ts'
import type { ImportReport } from '../../server/http/schemas.ts'
import type { Style } from './style.ts'
import { renderFields } from './table.ts'
import { escapeName, formatCount, shortDigestOf, shortRef } from './text.ts'

/** Images that a report names before it says "and N others". */
const NAMED_SHARERS = 3

export function renderReport(report: ImportReport, style: Style): string {
  const fields = renderFields(
    [
      ['image', shortRef(report.ref)],
      ['digest', shortDigestOf(report.digest)],
      ['size', formatSize(report.sizeBytes)],
      ['logical', formatSize(report.logicalBytes)],
      ['new', formatSize(report.newBytes)],
      ['shared', formatSize(report.sharedBytes)],
      ['zero', report.zeroBytes === 0 ? undefined : formatSize(report.zeroBytes)],
      ['inodes', formatCount(report.inodes)],
    ],
    style,
  )
  const notes = report.notes.map((note) => `${style.yellow('note:')} ${escapeName(note)}`)
  return [fields, '', summarizeReport(report), ...notes].join('\n')
}

/** The report in one sentence. */
export function summarizeReport(report: ImportReport): string {
  const { newBytes, sharedBytes } = report
  const name = shortRef(report.ref)
  const sharers = sharersOf(report)
  if (newBytes === 0) return `${name} added nothing: every byte of it was there${sharers}`
  if (sharedBytes === 0)
    return `${name} added ${formatSize(newBytes)}: nothing of it was there before`
  if (sharers === '') {
    return `${name} added ${formatSize(newBytes)}; ${formatSize(sharedBytes)} was there already or repeats inside it`
  }
  const share = Math.round((sharedBytes / (sharedBytes + newBytes)) * 100)
  return `${name} added ${formatSize(newBytes)}; ${formatSize(sharedBytes)} (${share} %) was there already${sharers}`
}

function sharersOf(report: ImportReport): string {
  const sharers = report.sharedWith.toSorted((a, b) => b.bytes - a.bytes)
  if (sharers.length === 0) return ''
  const named = sharers
    .slice(0, NAMED_SHARERS)
    .map(({ ref, bytes }) => `${shortRef(ref)} (${formatSize(bytes)})`)
  const others = sharers.length - named.length
  const more = others === 0 ? '' : ` and ${others} ${others === 1 ? 'other' : 'others'}`
  return `, shared with ${named.join(', ')}${more}`
}
