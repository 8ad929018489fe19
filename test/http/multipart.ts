/** A reader of multipart/byteranges written from RFC 2046 §5.1, for tests only. */
export interface Part {
  readonly contentType: string
  readonly contentRange: string
  readonly bytes: Buffer
}

export function readMultipart(contentType: string, body: Buffer): Part[] {
  const boundary = /^multipart\/byteranges; boundary=([\w'()+,./:=?-]+)$/.exec(contentType)?.[1]
  if (boundary === undefined) throw new Error(`no boundary in ${contentType}`)
  const parts: Part[] = []
  let at = expect(body, 0, `--${boundary}`)
  for (;;) {
    if (body.toString('latin1', at, at + 4) === '--\r\n') {
      if (at + 4 !== body.length) throw new Error('bytes behind the end')
      return parts
    }
    at = expect(body, at, '\r\n')
    const end = body.indexOf('\r\n\r\n', at)
    const headers = new Map(
      body
        .toString('latin1', at, end)
        .split('\r\n')
        .map((line) => [
          line.slice(0, line.indexOf(':')).toLowerCase(),
          line.slice(line.indexOf(':') + 2),
        ]),
    )
    const contentRange = headers.get('content-range') ?? ''
    const [, first = '', last = ''] = /^bytes (\d+)-(\d+)\/\d+$/.exec(contentRange) ?? []
    const length = Number(last) - Number(first) + 1
    const from = end + 4
    parts.push({
      contentType: headers.get('content-type') ?? '',
      contentRange,
      bytes: body.subarray(from, from + length),
    })
    at = expect(body, from + length, `\r\n--${boundary}`)
  }
}

function expect(body: Buffer, at: number, text: string): number {
  const found = body.toString('latin1', at, at + text.length)
  if (found !== text) throw new Error(`'${found}' at ${at}, expected '${text}'`)
  return at + text.length
}
