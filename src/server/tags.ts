/**
 * Changes of tags as operators mean them, over the store's conditional updates: a tag is made to name an image,
 * or removed, whatever it named before, unless the caller has something against that. Who must hear of it is not
 * known here.
 */
import type { Digest } from '../core/index.ts'
import { AppError, isAppError } from '../core/index.ts'
import type { DomainStore, RefRecord } from '../store/index.ts'
import { isDamage } from '../store/index.ts'

type Refs = DomainStore['refs']

/** Attempts when others change the tag meanwhile. */
const MAX_SWAP_ATTEMPTS = 8

/** Refuses, by throwing, a change of a tag that names `current`; undefined: no image. */
export type TagCheck = (current: Digest | undefined) => void

/**
 * @param check asked again when the tag has changed meanwhile: what it saw is what is replaced
 * @throws ERR_REF_CONFLICT, ERR_STORE_FULL, ERR_STORE_WRITE_FAILED, and what `check` throws
 */
export async function pointTag(
  refs: Refs,
  name: string,
  tag: string,
  image: Digest,
  check?: TagCheck,
): Promise<RefRecord> {
  for (let attempt = 1; ; attempt++) {
    const current = await currentRef(refs, name, tag)
    check?.(current?.image)
    const oci = current?.oci === undefined ? {} : { oci: current.oci }
    try {
      return await refs.compareAndSwap(name, tag, current?.generation ?? 0, { ...oci, image })
    } catch (error) {
      if (!isConflict(error)) throw error
      if (attempt === MAX_SWAP_ATTEMPTS) throw changedMeanwhile(name, tag, error)
    }
  }
}

/**
 * Refuses when the tag changes meanwhile: what would be removed is not what was looked at.
 * @returns false when there is no such tag
 * @throws ERR_REF_CONFLICT, ERR_STORE_WRITE_FAILED, and what `check` throws
 */
export async function removeTag(
  refs: Refs,
  name: string,
  tag: string,
  check?: TagCheck,
): Promise<boolean> {
  const current = await currentRef(refs, name, tag)
  if (current === undefined) return false
  check?.(current.image)
  try {
    await refs.delete(name, tag, current.generation)
    return true
  } catch (error) {
    throw isConflict(error) ? changedMeanwhile(name, tag, error) : error
  }
}

function isConflict(error: unknown): boolean {
  return isAppError(error) && error.code === 'ERR_STORE_REF_CONFLICT'
}

function changedMeanwhile(name: string, tag: string, cause: unknown): AppError {
  return new AppError('ERR_REF_CONFLICT', `${name}:${tag} was changed by someone else meanwhile`, {
    hint: 'look at it and try again',
    cause,
  })
}

/** A damaged ref is at generation 0: it can be replaced and removed, nothing else. */
async function currentRef(
  refs: Refs,
  name: string,
  tag: string,
): Promise<Pick<RefRecord, 'generation' | 'image' | 'oci'> | undefined> {
  try {
    return await refs.resolve(name, tag)
  } catch (error) {
    if (isDamage(error)) return { generation: 0 }
    throw error
  }
}
