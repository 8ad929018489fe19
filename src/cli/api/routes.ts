/** Paths of the API that commands use, and the calls that more than one command makes. */
import type { IncomingMessage } from 'node:http'

import { AppError, closestNames, formatRef, isAppError } from '../../core/index.ts'
import type { Ref } from '../../core/index.ts'
import type { Image, ImageList } from '../../server/http/schemas.ts'
import type { ApiClient } from './client.ts'

/** Largest page of images that is asked for at once. */
const PAGE_IMAGES = 500
/** Listing more than this is a job for a program: it reads the pages itself. */
export const MAX_LISTED_IMAGES = 100_000
/** Names are suggested from the first page only: an error message may not cost many requests. */
const SUGGESTED_FROM = PAGE_IMAGES

/** `/v1/images/REF`; the parts of a reference need no encoding. */
export function imagePath(ref: Ref): string {
  return `/v1/images/${formatRef(ref)}`
}

export function query(
  path: string,
  parameters: Readonly<Record<string, string | number | undefined>>,
): string {
  const search = new URLSearchParams()
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined) search.append(name, String(value))
  }
  const text = search.toString()
  return text === '' ? path : `${path}?${text}`
}

/**
 * Whether the answer to a path inside an image is a directory's listing rather than a file's bytes: data
 * routes serve ranges; a listing is a document that does not.
 */
export function isListing({ headers }: IncomingMessage): boolean {
  const isJson = headers['content-type']?.startsWith('application/json') === true
  return isJson && headers['accept-ranges'] === undefined
}

/** Every image, page after page. */
export async function* listImages(
  client: ApiClient,
  domain: string | undefined,
): AsyncGenerator<Image> {
  let cursor: string | undefined
  let listed = 0
  do {
    const path = query('/v1/images', { domain, cursor, limit: PAGE_IMAGES })
    const page = await client.json<ImageList>(path)
    yield* page.images
    listed += page.images.length
    cursor = page.nextCursor
  } while (cursor !== undefined && listed < MAX_LISTED_IMAGES)
}

/** An image's record. @throws ERR_IMAGE_NOT_FOUND with the closest names as the hint */
export async function getImage(client: ApiClient, ref: Ref): Promise<Image> {
  return suggesting(client, ref, () => client.json<Image>(imagePath(ref)))
}

/** Runs a call about an image; when there is no such image, its error names the closest ones. */
export async function suggesting<T>(
  client: ApiClient,
  ref: Ref,
  call: () => Promise<T>,
): Promise<T> {
  try {
    return await call()
  } catch (error) {
    if (!isAppError(error) || error.code !== 'ERR_IMAGE_NOT_FOUND') throw error
    const closest = await closestImages(client, ref)
    throw new AppError(error.code, error.message, {
      hint:
        closest.length > 0
          ? `closest: ${closest.join(', ')} (commonpage image ls)`
          : (error.hint ?? '`commonpage image ls` lists what is there'),
      ...(error.details === undefined ? {} : { details: error.details }),
      cause: error,
    })
  }
}

async function closestImages(client: ApiClient, ref: Ref): Promise<string[]> {
  try {
    const list = await client.json<ImageList>(query('/v1/images', { limit: SUGGESTED_FROM }))
    const refs = list.images.map((image) => image.ref)
    const wanted = formatRef(ref)
    const sameName = refs.filter((candidate) => candidate.startsWith(`${ref.domain}/${ref.name}:`))
    return [...new Set([...sameName, ...closestNames(wanted, refs)])].slice(0, 3)
  } catch {
    // the error that is being explained matters more than a suggestion
    return []
  }
}
