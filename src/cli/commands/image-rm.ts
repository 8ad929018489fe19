/** `image rm`: removes a name, after showing what that frees and asking. */
import { createInterface } from 'node:readline/promises'

import { AppError, formatRef, formatSize, isAppError, parseRef } from '../../core/index.ts'
import type { Ref } from '../../core/index.ts'
import type { DiskUsage, Image } from '../../server/http/schemas.ts'
import { getImage, imagePath, query } from '../api/routes.ts'
import type { Invocation } from '../invocation.ts'
import { deviceBytesOf } from '../render/image-size.ts'
import { shortDigestOf } from '../render/text.ts'

export interface ImageRmOptions {
  readonly yes?: boolean
  readonly dryRun?: boolean
}

/** Other names of an image in its line. */
const SHOWN_NAMES = 3
/** Codes that the server refuses to describe a damaged image with. */
const DAMAGE = /^ERR_(STORE|EROFS|IMAGE_RECORD)_/

interface Removal {
  readonly ref: Ref
  /** What it names, or why nobody can say. */
  readonly image: Image | AppError
  /** Stored bytes that no other image uses; undefined when the server does not know. */
  readonly uniqueBytes: number | undefined
  /** Tags that name the same image and stay. */
  readonly stays: readonly string[]
}

export async function runImageRm(
  invocation: Invocation,
  refTexts: readonly string[],
  options: ImageRmOptions,
): Promise<void> {
  const { client, output } = invocation
  const refs = refTexts.map((text) => parseRef(text))
  const removals = await inspectAll(invocation, refs)
  const dryRun = options.dryRun === true
  for (const removal of removals) output.say(describe(removal, dryRun))
  if (!dryRun) {
    await confirm(invocation, options, removals)
    for (const { ref } of removals) await client.exchange(imagePath(ref), { method: 'DELETE' })
    const names = removals.map(({ ref }) => formatRef(ref)).join(', ')
    output.say(`removed ${names}; its bytes stay readable by digest until they are collected`)
  }
  if (invocation.json) {
    await output.printJson(
      removals.map(({ ref, image, uniqueBytes, stays }) => ({
        ref: formatRef(ref),
        ...(isAppError(image) ? {} : { digest: image.digest }),
        removed: !dryRun,
        stays,
        ...(uniqueBytes === undefined ? {} : { uniqueBytes }),
      })),
    )
  }
}

/** One request after the other: the server bounds the connections of a peer. One report for each domain. */
async function inspectAll(invocation: Invocation, refs: readonly Ref[]): Promise<Removal[]> {
  const going = new Set(refs.map(formatRef))
  const usages = new Map<string, DiskUsage>()
  const removals: Removal[] = []
  for (const ref of refs) {
    const image = await imageOrDamage(invocation, ref)
    if (isAppError(image)) {
      removals.push({ ref, image, uniqueBytes: undefined, stays: [] })
      continue
    }
    const { domain } = ref
    const usage =
      usages.get(domain) ?? (await invocation.client.json<DiskUsage>(query('/v1/du', { domain })))
    usages.set(domain, usage)
    const row = usage.images.find((candidate) => candidate.ref === image.ref)
    const stays = usage.images
      .filter((candidate) => candidate.digest === image.digest && !going.has(candidate.ref))
      .map((candidate) => candidate.ref)
    removals.push({ ref, image, uniqueBytes: row?.uniqueBytes, stays })
  }
  return removals
}

/** A damaged image can be removed as well: its name is all that it takes. */
async function imageOrDamage({ client }: Invocation, ref: Ref): Promise<Image | AppError> {
  try {
    return await getImage(client, ref)
  } catch (error) {
    if (isAppError(error) && DAMAGE.test(error.code)) return error
    throw error
  }
}

function describe({ ref, image, uniqueBytes, stays }: Removal, dryRun: boolean): string {
  const verb = dryRun ? 'would remove' : 'removes'
  if (isAppError(image)) return `${verb} ${formatRef(ref)} (damaged: ${image.message})`
  const facts = [shortDigestOf(image.digest), formatSize(deviceBytesOf(image))]
  if (stays.length > 0) facts.push(`which stays as ${shortList(stays)}`)
  else if (uniqueBytes !== undefined)
    facts.push(`${formatSize(uniqueBytes)} of it in no other image`)
  return `${verb} ${formatRef(ref)} (${facts.join(', ')})`
}

function shortList(names: readonly string[]): string {
  const shown = names.slice(0, SHOWN_NAMES).join(', ')
  return names.length > SHOWN_NAMES ? `${shown} and ${names.length - SHOWN_NAMES} more` : shown
}

/** @throws ERR_CLI_CONFIRMATION_REQUIRED */
async function confirm(
  invocation: Invocation,
  options: ImageRmOptions,
  removals: readonly Removal[],
): Promise<void> {
  if (options.yes === true) return
  const { stdin, stderr } = invocation.context
  const many = removals.length > 1 ? `${removals.length} images` : 'it'
  if (stdin.isTTY !== true) {
    throw new AppError(
      'ERR_CLI_CONFIRMATION_REQUIRED',
      'nothing was removed: nobody confirmed it',
      {
        hint: `add --yes to remove ${many}, or --dry-run to see what would happen`,
      },
    )
  }
  const terminal = createInterface({ input: stdin, output: stderr })
  try {
    const answer = await terminal.question(`remove ${many}? [y/N] `, { signal: invocation.signal })
    if (/^y(es)?$/i.test(answer.trim())) return
  } finally {
    terminal.close()
  }
  throw new AppError('ERR_CLI_CONFIRMATION_REQUIRED', 'nothing was removed: the answer was not yes')
}
