/** Tables without borders: upper-case headers, text to the left, numbers to the right, a rule above totals. */
import { PLAIN_STYLE } from './style.ts'
import type { Style } from './style.ts'
import { padEnd, padStart, visibleWidth } from './text.ts'

export interface Column<Row> {
  readonly header: string
  readonly value: (row: Row) => string
  readonly align?: 'left' | 'right'
}

export interface TableOptions {
  readonly style?: Style
  /** A last line, one cell per column; missing cells are empty. */
  readonly totals?: readonly string[]
}

const GAP = '  '

export function renderTable<Row>(
  columns: readonly Column<Row>[],
  rows: readonly Row[],
  options: TableOptions = {},
): string {
  const style = options.style ?? PLAIN_STYLE
  const header = columns.map((column) => column.header.toUpperCase())
  const body = rows.map((row) => columns.map((column) => column.value(row)))
  const totals = options.totals
  const all = totals === undefined ? [header, ...body] : [header, ...body, totals]
  const widths = columns.map((_, index) =>
    all.reduce((width, cells) => Math.max(width, visibleWidth(cells[index] ?? '')), 0),
  )
  const line = (cells: readonly string[]): string =>
    columns
      .map((column, index) => {
        const pad = column.align === 'right' ? padStart : padEnd
        return pad(cells[index] ?? '', widths[index] ?? 0)
      })
      .join(GAP)
      .trimEnd()
  const lines = [style.dim(line(header)), ...body.map(line)]
  if (totals !== undefined) lines.push(style.bold(line(totals)))
  return lines.join('\n')
}

/** `label  value` lines with the values aligned; entries without a value are left out. */
export function renderFields(
  fields: readonly (readonly [string, string | undefined])[],
  style: Style = PLAIN_STYLE,
): string {
  const shown = fields.filter((field): field is [string, string] => field[1] !== undefined)
  const width = shown.reduce((widest, [label]) => Math.max(widest, visibleWidth(label)), 0)
  return shown
    .map(([label, value]) => `${style.dim(padEnd(label, width))}${GAP}${value}`)
    .join('\n')
}
