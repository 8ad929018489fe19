/** Commands against a server that answers with the API's shapes: output, exit codes, requests. */
import assert from 'node:assert/strict'
import { createServer } from 'node:net'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'

import { Interruption } from '../../src/cli/interruption.ts'
import * as schemas from '../../src/server/http/schemas.ts'
import {
  DISK_USAGE,
  HEX_A,
  makeJob,
  makeReport,
  sendJson,
  sendProblem,
  SHARING,
  startFakeServer,
} from './fake-server.ts'
import type { FakeServer } from './fake-server.ts'
import { runCommand } from './run-command.ts'

async function withServer(use: (server: FakeServer) => Promise<void>): Promise<void> {
  await using server = await startFakeServer()
  await use(server)
}

/** Runs against the fake by the environment, as a user would set it. */
function run(server: FakeServer, ...args: string[]) {
  return runCommand(args, { env: { COMMONPAGE_SERVER: server.url } })
}

describe('lists', () => {
  test('image ls: a table without borders, and the same as JSON', () =>
    withServer(async (server) => {
      const { code, stdout } = await run(server, 'image', 'ls')
      assert.equal(code, 0)
      const lines = stdout.trimEnd().split('\n')
      assert.match(
        lines[0] ?? '',
        /^IMAGE\s+DIGEST\s+LOGICAL\s+SIZE\s+INODES\s+DEVICES\s+FILESYSTEM\s+UPDATED$/,
      )
      assert.match(
        lines[1] ?? '',
        /^demo\/base:1\s+a1a1a1a1a1a1\s+11\.0 MiB\s+12\.0 MiB\s+1,234\s+1\s+erofs\s+\d+\w ago$/,
      )
      assert.equal(lines.length, 3)
      const json = await run(server, 'image', 'ls', '--json')
      assert.deepEqual(JSON.parse(json.stdout), server.images)
    }))

  test('an empty store says how to get the first image, on stderr', () =>
    withServer(async (server) => {
      server.images = []
      const { code, stdout, stderr } = await run(server, 'image', 'ls')
      assert.deepEqual([code, stdout], [0, ''])
      assert.match(stderr, /commonpage import erofs FILE/)
      assert.deepEqual(JSON.parse((await run(server, 'image', 'ls', '--json')).stdout), [])
    }))

  test('every page of images is read', () =>
    withServer(async (server) => {
      const cursors: (string | null)[] = []
      server.override = (request, response) => {
        const cursor = new URL(request.url ?? '', 'http://x').searchParams.get('cursor')
        cursors.push(cursor)
        const more = cursor === null ? { nextCursor: 'two' } : {}
        return sendJson(response, schemas.ImageList, { images: server.images, ...more })
      }
      const { stdout } = await run(server, 'image', 'ls', '--json')
      assert.equal((JSON.parse(stdout) as unknown[]).length, 4)
      assert.deepEqual(cursors, [null, 'two'])
    }))

  test('du: sums stand under their columns', () =>
    withServer(async (server) => {
      const { stdout } = await run(server, 'du')
      const lines = stdout.split('\n')
      assert.match(lines[0] ?? '', /^IMAGE\s+LOGICAL\s+STORED\s+UNIQUE\s+SHARED\s+RESIDENT$/)
      assert.match(lines[3] ?? '', /^total\s+21\.0 MiB\s+11\.0 MiB\s+9\.0 MiB\s+4\.0 KiB$/)
      assert.match(stdout, /2 images in 2 blobs/)
      assert.deepEqual(JSON.parse((await run(server, 'du', '--json')).stdout), DISK_USAGE)
    }))

  test('sharing: touched, added, and saved = what was touched but not added', () =>
    withServer(async (server) => {
      const { stdout } = await run(server, 'sharing')
      assert.match(
        stdout,
        /demo\/application:1\s+105\.0 MiB\s+5\.0 MiB\s+100\.0 MiB\s+1,678\s+105\.0 MiB/,
      )
      assert.match(stdout, /^total\s+205\.0 MiB\s+105\.0 MiB\s+100\.0 MiB\s+1,678\s+105\.0 MiB$/m)
      assert.match(stdout, /saved 100\.0 MiB: readers touched 205\.0 MiB, memory took 105\.0 MiB/)
    }))

  test('sharing --reset posts, sharing --watch --json gives a line each until it is interrupted', () =>
    withServer(async (server) => {
      assert.equal((await run(server, 'sharing', '--reset')).code, 0)
      assert.deepEqual(
        server.received.map(({ method, url }) => `${method} ${url}`),
        ['POST /v1/sharing/reset'],
      )
      const stop = new AbortController()
      let answers = 0
      server.override = (_request, response) => {
        answers += 1
        if (answers === 3) stop.abort(Interruption.bySignal('SIGINT'))
        return sendJson(response, schemas.Sharing, SHARING)
      }
      const { code, stdout } = await runCommand(
        ['sharing', '--watch', '--json', '--interval', '200ms', '--server', server.url],
        { signal: stop.signal },
      )
      assert.equal(code, 130)
      const lines = stdout.trimEnd().split('\n')
      assert.equal(lines.length, 2)
      assert.deepEqual(JSON.parse(lines[1] ?? ''), SHARING)
    }))
})

describe('images', () => {
  test('show names the NBD export and the devices', () =>
    withServer(async (server) => {
      const { stdout } = await run(server, 'image', 'show', 'demo/base:1')
      assert.match(stdout, new RegExp(`NBD export\\s+demo/base@${HEX_A}`))
      assert.match(stdout, /DEVICE\s+DIGEST\s+SIZE\s+EXTENTS/)
    }))

  test('an unknown image: exit 3, and the closest names', () =>
    withServer(async (server) => {
      const { code, stdout, stderr } = await run(server, 'image', 'show', 'demo/bsae:1')
      assert.deepEqual([code, stdout], [3, ''])
      assert.match(stderr, /^error\[ERR_IMAGE_NOT_FOUND\]: no image named 'demo\/bsae:1'\n/)
      assert.match(stderr, /\nhint: closest: demo\/base:1.*\(commonpage image ls\)\n$/)
    }))

  test('another tag of the same name is suggested', () =>
    withServer(async (server) => {
      const { stderr } = await run(server, 'image', 'tag', 'demo/base:22', 'demo/base:2')
      assert.match(stderr, /hint: closest: demo\/base:1/)
    }))

  test('tag sends the source, rm asks where it can and refuses where it cannot', () =>
    withServer(async (server) => {
      const tagged = await run(server, 'image', 'tag', 'demo/base:1', 'demo/base:stable')
      assert.equal(tagged.code, 0)
      const put = server.received.find(({ method }) => method === 'PUT')
      assert.equal(put?.url, '/v1/images/demo/base:stable')
      assert.deepEqual(JSON.parse(put?.body.toString() ?? ''), { from: 'demo/base:1' })

      const silent = await run(server, 'image', 'rm', 'demo/base:1')
      assert.equal(silent.code, 4)
      assert.match(
        silent.stderr,
        /removes demo\/base:1 \(a1a1a1a1a1a1, 12\.0 MiB, 8\.0 MiB of it in no other image\)/,
      )
      const dry = await run(server, 'image', 'rm', '--dry-run', 'demo/base:1')
      assert.equal(dry.code, 0)
      const env = { COMMONPAGE_SERVER: server.url }
      const no = await runCommand(['image', 'rm', 'demo/base:1'], { env, typed: 'n\n' })
      assert.equal(no.code, 4)
      assert.deepEqual(deletions(server), [])

      const yes = await runCommand(['image', 'rm', 'demo/base:1'], { env, typed: 'y\n' })
      assert.equal(yes.code, 0)
      assert.equal((await run(server, 'image', 'rm', '--yes', 'demo/base:1')).code, 0)
      assert.deepEqual(deletions(server), ['/v1/images/demo/base:1', '/v1/images/demo/base:1'])
    }))

  test('tree reads directories page by page down to its depth and its limit', () =>
    withServer(async (server) => {
      server.override = (request, response) => {
        const { pathname, searchParams } = new URL(request.url ?? '', 'http://x')
        const path = pathname.split('/-/files/')[1] ?? ''
        const entries: schemas.DirectoryEntry[] =
          path === ''
            ? [
                { name: 'usr', type: 'directory' },
                { name: 'caf%E9', type: 'file', sizeBytes: 2048 },
              ]
            : [{ name: 'deep', type: 'directory' }]
        const listing = searchParams.has('cursor')
          ? { path, entries: [{ name: 'last', type: 'symlink' }] }
          : { path, entries, ...(path === '' ? { nextCursor: 'c' } : {}) }
        return sendJson(response, schemas.DirectoryListing, listing)
      }
      const { stdout } = await run(server, 'image', 'tree', 'demo/base:1', '--depth', '2')
      assert.equal(
        stdout,
        [
          'demo/base:1:/',
          '├── usr/',
          '│   └── deep/',
          '├── caf\\xe9  2.0 KiB',
          '└── last  symlink',
          '',
          '2 directories, 1 file, 1 other, 2.0 KiB',
          '',
        ].join('\n'),
      )
      const limited = await run(server, 'image', 'tree', 'demo/base:1', '--limit', '2')
      assert.match(limited.stderr, /more than 2 entries/)
      assert.match(limited.stdout, /1 directory, 1 file, 2\.0 KiB/)
    }))

  test('tree of a file is a usage error, and its bytes are not taken for a listing', () =>
    withServer(async (server) => {
      server.override = (_request, response) => {
        response.writeHead(200, { 'content-type': 'application/json', 'accept-ranges': 'bytes' })
        response.end('{"path": "a", "entries": []}\n')
        return true
      }
      const { code, stdout, stderr } = await run(server, 'image', 'tree', 'demo/base:1', 'etc/a')
      assert.deepEqual([code, stdout], [2, ''])
      assert.match(stderr, /^error\[ERR_CLI_USAGE\]: \/etc\/a is not a directory$/m)
      assert.match(stderr, /^hint: commonpage image cat demo\/base:1 etc\/a$/m)
    }))

  test('cat gives bytes as they are; a directory and a missing file are errors', () =>
    withServer(async (server) => {
      const urls: (string | undefined)[] = []
      server.override = (request, response) => {
        urls.push(request.url)
        if (request.url?.endsWith('/missing') === true) {
          return sendProblem(response, 404, 'ERR_FILE_NOT_FOUND', 'no file /missing')
        }
        if (request.url?.endsWith('/usr') === true) {
          return sendJson(response, schemas.DirectoryListing, { path: 'usr', entries: [] })
        }
        response.writeHead(200, { 'content-type': 'application/json', 'accept-ranges': 'bytes' })
        response.end('{"a": 1}\n')
        return true
      }
      const file = await run(server, 'image', 'cat', 'demo/base:1', '/etc/caf%E9.json')
      assert.deepEqual([file.code, file.stdout], [0, '{"a": 1}\n'])
      assert.equal(urls[0], '/v1/images/demo/base:1/-/files/etc/caf%E9.json')
      const directory = await run(server, 'image', 'cat', 'demo/base:1', 'usr')
      assert.equal(directory.code, 2)
      assert.match(directory.stderr, /hint: commonpage image tree demo\/base:1 usr/)
      assert.equal((await run(server, 'image', 'cat', 'demo/base:1', 'missing')).code, 3)
    }))

  test('cat of a file whose rest never comes is a failure, not a short file', () =>
    withServer(async (server) => {
      server.override = (_request, response) => {
        response.writeHead(200, { 'content-length': 10, 'accept-ranges': 'bytes' })
        response.write('12345', () => response.destroy())
        return true
      }
      const { code, stderr } = await run(server, 'image', 'cat', 'demo/base:1', 'x')
      assert.equal(code, 5)
      assert.match(stderr, /ERR_CLI_SERVER_UNREACHABLE/)
    }))
})

function deletions(server: FakeServer): string[] {
  return server.received.filter(({ method }) => method === 'DELETE').map(({ url }) => url)
}

describe('import erofs', () => {
  let folder = ''
  let image = ''
  let device = ''
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'cli-import-'))
    image = join(folder, 'image.erofs')
    device = join(folder, 'device.blob')
    await writeFile(image, Buffer.alloc(700_000, 'image '))
    await writeFile(device, Buffer.alloc(10_000, 'device'))
  })
  after(() => rm(folder, { recursive: true }))

  test('devices travel first, the image names them in slot order, the report is a sentence', () =>
    withServer(async (server) => {
      const { code, stdout, stderr } = await run(
        server,
        'import',
        'erofs',
        image,
        'demo/new:1',
        '--device',
        device,
        '--progress',
        'plain',
      )
      assert.equal(code, 0, stderr)
      const [blob, upload, job] = server.received
      assert.deepEqual([blob?.method, blob?.url], ['POST', '/v1/blobs/demo?park=true'])
      assert.equal(blob?.body.length, 10_000)
      const { pathname, searchParams } = new URL(upload?.url ?? '', 'http://x')
      assert.equal(pathname, '/v1/images/demo/new:1')
      assert.equal(searchParams.get('format'), 'erofs')
      assert.match(searchParams.get('device') ?? '', /^sha256:[0-9a-f]{64}$/)
      assert.equal(upload?.headers['content-length'], '700000')
      assert.equal(upload?.headers.expect, '100-continue')
      assert.equal(upload?.body.length, 700_000)
      assert.match(job?.url ?? '', /^\/v1\/jobs\/job-1\?wait=1s$/)
      assert.match(
        stdout,
        /demo\/new:1 added 1\.0 MiB; 9\.0 MiB \(90 %\) was there already, shared with demo\/base:1 \(9\.0 MiB\)/,
      )
      assert.match(
        stderr,
        /^sending device\.blob: 9\.8 KiB in .*\nsending image\.erofs: 683\.6 KiB in .*\nimporting: 10\.0 MiB in /,
      )
      const json = await run(server, 'import', 'erofs', image, 'demo/new:1', '--json', '--quiet')
      assert.deepEqual(JSON.parse(json.stdout), makeReport('demo/new:1'))
      assert.equal(json.stderr, '')
    }))

  test('a refusal before the body costs no transfer; its exit code is that of the documentation', () =>
    withServer(async (server) => {
      let body = 0
      server.override = (request, response) => {
        request.on('data', (chunk: Buffer) => (body += chunk.length))
        return sendProblem(
          response,
          409,
          'ERR_REF_CONFLICT',
          'somebody else writes it',
          'try again',
        )
      }
      const { code, stderr } = await run(server, 'import', 'erofs', image, 'demo/new:1')
      assert.equal(code, 4)
      assert.match(stderr, /error\[ERR_REF_CONFLICT\]: somebody else writes it\nhint: try again\n$/)
      assert.equal(body, 0)
    }))

  test('an answer in the middle of the body stops the transfer', () =>
    withServer(async (server) => {
      const large = join(folder, 'large')
      await writeFile(large, Buffer.alloc(64 * 1024 * 1024, 'x'))
      let body = 0
      server.override = (request, response) => {
        response.writeContinue()
        request.on('data', (chunk: Buffer) => {
          body += chunk.length
          if (!response.headersSent) {
            sendProblem(response, 507, 'ERR_STORE_FULL', 'the disk is full')
            request.pause()
          }
        })
        return true
      }
      const { stderr } = await run(server, 'import', 'erofs', large, 'demo/new:1')
      assert.match(stderr, /error\[ERR_STORE_FULL\]: the disk is full/)
      assert.ok(body < 64 * 1024 * 1024)
    }))

  test('a server that never says 100 gets the body all the same', () =>
    withServer(async (server) => {
      server.override = async (request, response) => {
        if (request.method !== 'POST') return false
        let length = 0
        for await (const chunk of request as AsyncIterable<Buffer>) length += chunk.length
        assert.equal(length, 700_000)
        return sendJson(response, schemas.Job, makeJob('demo/new:1', 'done'), 202)
      }
      assert.equal((await run(server, 'import', 'erofs', image, 'demo/new:1')).code, 0)
    }))

  test('a failed job gives its own code and exit code', () =>
    withServer(async (server) => {
      server.override = (request, response) => {
        if (request.url?.startsWith('/v1/jobs/') !== true) return false
        const error = { code: 'ERR_DIGEST_INVALID', message: 'no such digest' }
        return sendJson(response, schemas.Job, { ...makeJob('demo/new:1', 'failed'), error })
      }
      const { code, stderr } = await run(server, 'import', 'erofs', image, 'demo/new:1')
      assert.equal(code, 2)
      assert.match(stderr, /error\[ERR_DIGEST_INVALID\]: no such digest/)
    }))

  test('Ctrl-C cancels the job and exits 130', () =>
    withServer(async (server) => {
      const stop = new AbortController()
      const cancelled = Promise.withResolvers<string | undefined>()
      server.override = (request, response) => {
        if (request.url?.startsWith('/v1/jobs/') !== true) return false
        if (request.method === 'DELETE') {
          cancelled.resolve(request.url)
          return sendJson(response, schemas.Job, makeJob('demo/new:1', 'cancelled'))
        }
        stop.abort(Interruption.bySignal('SIGINT'))
        return true
      }
      const { code, stderr } = await runCommand(
        ['import', 'erofs', image, 'demo/new:1', '--server', server.url],
        { signal: stop.signal },
      )
      assert.equal(code, 130)
      assert.match(stderr, /cancelled\n$/)
      assert.equal(await cancelled.promise, '/v1/jobs/job-1')
    }))

  test('a missing device is found before anything travels', () =>
    withServer(async (server) => {
      const args = ['import', 'erofs', image, 'demo/new:1', '--device', join(folder, 'none')]
      const { code, stderr } = await run(server, ...args)
      assert.equal(code, 3)
      assert.match(stderr, /ERR_CLI_FILE_UNREADABLE/)
      assert.equal(server.received.length, 0)
    }))
})

describe('servers that do not answer as one', () => {
  test('nobody listens: the URL, where it came from, exit 5', async () => {
    const probe = createServer()
    await once(probe.listen(0, '127.0.0.1'), 'listening')
    const { port } = probe.address() as AddressInfo
    probe.close()
    await once(probe, 'close')
    const url = `http://127.0.0.1:${port}`
    const flag = await runCommand(['image', 'ls', '--server', url])
    assert.equal(flag.code, 5)
    assert.match(
      flag.stderr,
      new RegExp(`cannot talk to ${url} \\(from --server\\): connection refused`),
    )
    const variable = await runCommand(['du'], { env: { COMMONPAGE_SERVER: url } })
    assert.match(variable.stderr, /\(from COMMONPAGE_SERVER\)/)
    const json = await runCommand(['du', '--json', '--server', url])
    assert.equal(json.stdout, '')
    const { error } = JSON.parse(json.stderr) as { error: Record<string, unknown> }
    assert.deepEqual([error['code'], error['exit']], ['ERR_CLI_SERVER_UNREACHABLE', 5])
  })

  test('a port that does not speak HTTP, or not TLS: said without the words of a parser', async () => {
    await using greeter = createServer((socket) => {
      socket.on('error', () => undefined).resume()
      socket.end('NBDMAGICIHAVEOPT\0\x03')
    })
    await once(greeter.listen(0, '127.0.0.1'), 'listening')
    const { port } = greeter.address() as AddressInfo
    for (const [scheme, spoken] of [
      ['http', 'HTTP'],
      ['https', 'TLS'],
    ]) {
      const url = `${scheme}://127.0.0.1:${port}`
      const { code, stderr } = await runCommand(['du', '--server', url])
      assert.equal(code, 5)
      assert.match(
        stderr,
        new RegExp(`: what answers there does not speak ${spoken}\\nhint: another`),
      )
    }
  })

  test('another program answers', () =>
    withServer(async (server) => {
      server.override = (_request, response) => {
        response.writeHead(200, { 'content-type': 'text/html' }).end('<html>')
        return true
      }
      const { code, stderr } = await run(server, 'du')
      assert.equal(code, 1)
      assert.match(stderr, /ERR_CLI_BAD_RESPONSE/)
      server.override = (_request, response) => {
        response.writeHead(404, { 'content-type': 'text/html' }).end('<html>')
        return true
      }
      assert.match((await run(server, 'du')).stderr, /ERR_CLI_BAD_RESPONSE/)
    }))

  test('health: 0 when ready, 1 with the failed checks when not', () =>
    withServer(async (server) => {
      let status = 200
      server.override = (_request, response) => {
        const checks = [{ name: 'store', ok: status === 200, reason: 'disk is gone' }]
        response.writeHead(status, { 'content-type': 'application/json' })
        response.end(JSON.stringify({ ready: status === 200, checks }))
        return true
      }
      assert.equal((await run(server, 'health')).code, 0)
      status = 503
      const { code, stderr } = await run(server, 'health')
      assert.equal(code, 1)
      assert.match(stderr, /error\[ERR_CLI_NOT_READY\]: .* is not ready: store \(disk is gone\)/)
    }))
})
