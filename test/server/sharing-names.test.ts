/** What an image is called in the sharing report after its tag has moved on. */
import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

import type { Image, Sharing } from '../../src/server/http/schemas.ts'
import { startServerProcess } from '../e2e/server-process.ts'

test('an image that was read under a tag keeps its name when the tag names another', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'commonpage-names-'))
  try {
    await using server = await startServerProcess({
      data: join(folder, 'data'),
      args: ['--cache-size', '64MiB', '--workers', '1'],
    })
    const file = join(folder, 'image')
    const url = `${server.http}/v1/images/demo/app:1`
    const digests: string[] = []
    for (const text of ['first', 'second']) {
      await writeFile(file, Buffer.alloc(100_000, text))
      const imported = await server.run('import', 'erofs', file, 'demo/app:1')
      assert.equal(imported.code, 0, imported.stderr)
      digests.push(((await (await fetch(url)).json()) as Image).digest)
      await (await fetch(`${url}/-/raw`)).arrayBuffer()
    }
    const { images } = (await (await fetch(`${server.http}/v1/sharing`)).json()) as Sharing
    const refs = new Map(images.map(({ digest, ref }) => [digest, ref]))
    const [first = '', second = ''] = digests
    assert.equal(refs.get(first), `demo/app@${first}`)
    assert.equal(refs.get(second), 'demo/app:1')
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})
