/** What lists and reports of images show beside the plain case: several devices, domains that are not there. */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import type { FakeServer } from './fake-server.ts'
import { startFakeServer } from './fake-server.ts'
import { runCommand } from './run-command.ts'

async function withServer(use: (server: FakeServer) => Promise<void>): Promise<void> {
  await using server = await startFakeServer()
  await use(server)
}

function run(server: FakeServer, ...args: string[]) {
  return runCommand(args, { env: { COMMONPAGE_SERVER: server.url } })
}

test('an image of two devices: every size by its name, the flattened view where it is another', () =>
  withServer(async (server) => {
    const [image] = server.images
    assert.ok(image !== undefined)
    const data = { sizeBytes: 20_971_520, digest: image.digest, extents: 7 }
    server.images = [{ ...image, devices: [...image.devices, data] }]
    const listed = await run(server, 'image', 'ls')
    assert.match(listed.stdout, /\s11\.0 MiB\s+32\.0 MiB\s+1,234\s+2\s/)
    const shown = await run(server, 'image', 'show', image.ref)
    assert.match(shown.stdout, /logical +11\.0 MiB \(11,534,336 bytes\)\n/i)
    assert.match(shown.stdout, /size +32\.0 MiB \(33,554,432 bytes\)\n/i)
    assert.match(shown.stdout, /flattened +12\.0 MiB \(12,582,912 bytes\)\n/i)
    server.images = [image]
    const single = await run(server, 'image', 'show', image.ref)
    assert.doesNotMatch(single.stdout, /flattened/i)
  }))
