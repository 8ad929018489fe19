/** How `import` ends when the job does: by its own code, whoever ended it. */
import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'

import * as schemas from '../../src/server/http/schemas.ts'
import { dataFolder } from '../store/data-folder.ts'
import { makeJob, sendJson, startFakeServer } from './fake-server.ts'
import { runCommand } from './run-command.ts'

test('an import that somebody else cancelled, or a stopping server, was not stopped by SIGINT', async () => {
  await using folder = await dataFolder()
  const image = join(folder.path, 'image.erofs')
  await writeFile(image, Buffer.alloc(4096))
  await using server = await startFakeServer()
  const message = 'the import was cancelled; nothing of it is kept'
  server.override = (request, response) => {
    if (request.method !== 'GET' || request.url?.startsWith('/v1/jobs/') !== true) return false
    const error = { code: 'ERR_JOB_CANCELLED', message }
    return sendJson(response, schemas.Job, { ...makeJob('demo/new:1', 'cancelled'), error })
  }
  const env = { COMMONPAGE_SERVER: server.url }
  const { code, stderr } = await runCommand(['import', 'erofs', image, 'demo/new:1'], { env })
  assert.equal(code, 1)
  assert.ok(stderr.includes(`error[ERR_JOB_CANCELLED]: ${message}\n`), stderr)
})
