/**
 * What a server does to its store in a short life: imports of related images, tags set, moved and removed. As a
 * program, `scenario.ts DATA MARKS`, it says in the file MARKS what is acknowledged from then on.
 */
import assert from 'node:assert/strict'
import { closeSync, openSync, writeSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

import type { Digest } from '../../../src/core/index.ts'
import { importErofs } from '../../../src/images/index.ts'
import { pointTag, removeTag } from '../../../src/server/tags.ts'
import type { Store } from '../../../src/store/index.ts'
import { openStore } from '../../../src/store/index.ts'

export const DOMAIN = 'acme'

/** Fixtures of one tree: they share most of their bytes. */
export const SOURCES = ['plain', 'chunk-64k-blob', 'plain-512'] as const
export type Source = (typeof SOURCES)[number]

/** What was promised so far. */
export interface Acknowledged {
  readonly images: Readonly<Partial<Record<Source, Digest>>>
  /** `NAME:TAG` to the image. */
  readonly tags: Readonly<Record<string, Digest>>
}

export const NOTHING: Acknowledged = { images: {}, tags: {} }

export function sourcePaths(source: Source): string[] {
  const names = source.endsWith('-blob')
    ? [`${source}.erofs`, `${source}.blob0`]
    : [`${source}.erofs`]
  return names.map((name) =>
    fileURLToPath(new URL(`../../fixtures/erofs/${name}`, import.meta.url)),
  )
}

export async function importSource(store: Store, source: Source): Promise<Digest> {
  const devices = sourcePaths(source).map((path) => ({ path }))
  return (await importErofs({ store, domain: DOMAIN, devices })).digest
}

async function live(dataDir: string, say: (text: string) => void): Promise<void> {
  await using store = await openStore({ dataDir, mode: 'owner' })
  await using member = await openStore({ dataDir, mode: 'member' })
  const { refs } = store.domain(DOMAIN)
  // A run before this one may have been killed: its tags were acknowledged.
  const found = await refs.list()
  const listed = found.refs.flatMap(({ name, tag, ref: { image } }) =>
    image === undefined ? [] : [[`${name}:${tag}`, image] as const],
  )
  let state: Acknowledged = { images: {}, tags: Object.fromEntries(listed) }
  const acknowledge = (images: Acknowledged['images'], tags: Acknowledged['tags']): void => {
    state = { images: { ...state.images, ...images }, tags }
    say(`${JSON.stringify(state)}\n`)
  }
  const point = async (tag: string, image: Digest): Promise<void> => {
    await pointTag(refs, 'app', tag, image)
    acknowledge({}, { ...state.tags, [`app:${tag}`]: image })
  }
  for (const source of SOURCES) {
    const image = await importSource(member, source)
    acknowledge({ [source]: image }, state.tags)
    await point(source, image)
  }
  const { plain, 'plain-512': last } = state.images
  assert.ok(plain !== undefined && last !== undefined)
  await point('plain', last)
  await point('stable', plain)
  await removeTag(refs, 'app', 'plain-512')
  const { 'app:plain-512': _removed, ...rest } = state.tags
  acknowledge({}, rest)
  assert.equal(await importSource(member, 'plain'), plain)
  await point('again', plain)
}

const [, program, dataDir, marks] = process.argv
if (program === fileURLToPath(import.meta.url) && dataDir !== undefined && marks !== undefined) {
  const descriptor = openSync(marks, 'w')
  await live(dataDir, (text) => writeSync(descriptor, text))
  closeSync(descriptor)
}
