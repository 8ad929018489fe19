/** `image cat`: a file's bytes to stdout, as fast as the reader takes them. */
import { AppError, parseRef } from '../../core/index.ts'
import { imagePath, isListing, suggesting } from '../api/routes.ts'
import { write } from '../context.ts'
import type { Invocation } from '../invocation.ts'
import { encodePathArgument, showEncodedName } from '../render/text.ts'

export async function runImageCat(
  invocation: Invocation,
  refText: string,
  pathText: string,
): Promise<void> {
  const { client, context } = invocation
  const ref = parseRef(refText)
  const path = encodePathArgument(pathText)
  const response = await suggesting(client, ref, () =>
    client.stream(`${imagePath(ref)}/-/files/${path}`, { headers: { accept: '*/*' } }),
  )
  if (isListing(response)) {
    response.destroy()
    throw new AppError('ERR_CLI_USAGE', `/${showEncodedName(path)} is a directory`, {
      hint: `commonpage image tree ${refText} ${pathText}`,
    })
  }
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      await write(context.stdout, chunk, context.signal)
    }
  } catch (error) {
    throw client.connectionError(error)
  }
}
