/** `image tag`: another name for an image that is there. */
import { formatRef, parseRef } from '../../core/index.ts'
import type { Image } from '../../server/http/schemas.ts'
import { imagePath, suggesting } from '../api/routes.ts'
import type { Invocation } from '../invocation.ts'
import { shortDigestOf } from '../render/text.ts'

export async function runImageTag(
  invocation: Invocation,
  sourceText: string,
  targetText: string,
): Promise<void> {
  const { client, output } = invocation
  const source = parseRef(sourceText)
  const target = parseRef(targetText)
  const image = await suggesting(client, source, () =>
    client.json<Image>(imagePath(target), { method: 'PUT', body: { from: formatRef(source) } }),
  )
  if (invocation.json) return output.printJson(image)
  output.say(`${formatRef(target)} is now ${shortDigestOf(image.digest)}, as ${formatRef(source)}`)
}
