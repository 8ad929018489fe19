/**
 * The form of a state machine's table: state, event, next state and a word on when. The machines run from
 * these tables, and docs/reference/nbd.md shows them rendered.
 */
export type Transitions<State extends string, Event extends string> = Readonly<
  Record<State, Readonly<Partial<Record<Event, readonly [next: State, when: string]>>>>
>

/** The table as Markdown rows, in the order it is written in. */
export function renderTransitions<State extends string, Event extends string>(
  table: Transitions<State, Event>,
): string {
  const lines = ['| state | event | next | when |', '| --- | --- | --- | --- |']
  for (const [state, events] of Object.entries<Partial<Record<string, readonly string[]>>>(table)) {
    const rows = Object.entries(events)
    if (rows.length === 0) lines.push(`| ${state} | – | – | final |`)
    for (const [event, to] of rows) lines.push(`| ${state} | ${event} | ${to?.join(' | ') ?? ''} |`)
  }
  return lines.join('\n')
}
