/** The command as a process: pipes that break, signals, the first screen, help texts, completion scripts. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import { EXIT } from '../../src/cli/index.ts'
import { listenRefusal } from '../../src/cli/ports.ts'
import { startFakeServer } from './fake-server.ts'
import { commandNames, REFERENCE_PAGE, renderReference } from './render-reference.ts'
import { runCommand } from './run-command.ts'

const MAIN = join(import.meta.dirname, '../../src/cli/main.ts')

/** Long enough for any start; a loop would run into it. */
const SERVE_TIMEOUT_MS = 30_000

describe('serve', () => {
  test('a data directory that cannot be made ends it at once, with the reason and exit 1', () => {
    const args = [MAIN, 'serve', '--data', '/proc/nope', '--http', '127.0.0.1:0', '--nbd']
    const { status, signal, stderr } = spawnSync(process.execPath, [...args, '127.0.0.1:0'], {
      encoding: 'utf8',
      timeout: SERVE_TIMEOUT_MS,
      killSignal: 'SIGKILL',
    })
    assert.equal(signal, null)
    assert.equal(status, 1)
    assert.match(stderr, /error\[ERR_STORE_WRITE_FAILED\].*\/proc\/nope: no such file or directory/)
    assert.match(stderr, /\nhint: .*--data/)
  })
})

describe('pipes and signals', () => {
  test('a reader that leaves ends the command quietly: no message, exit 0, the transfer stops', async () => {
    await using server = await startFakeServer()
    const closed = Promise.withResolvers<void>()
    server.override = (_request, response) => {
      response.writeHead(200, { 'accept-ranges': 'bytes' })
      const piece = Buffer.alloc(65_536, 'x')
      const more = (): void => {
        while (!response.destroyed && response.write(piece)) continue
      }
      response.on('drain', more)
      response.on('close', () => closed.resolve())
      more()
      return true
    }
    const child = spawn(
      process.execPath,
      [MAIN, 'image', 'cat', 'demo/base:1', 'endless', '--server', server.url],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    )
    const errors = child.stderr.toArray()
    await once(child.stdout, 'readable')
    child.stdout.destroy()
    const [code] = (await once(child, 'exit')) as [number | null]
    assert.equal(code, 0)
    assert.equal(Buffer.concat((await errors) as Buffer[]).toString(), '')
    await closed.promise
  })

  for (const [signal, expected] of [
    ['SIGINT', EXIT.interrupted],
    ['SIGTERM', EXIT.terminated],
  ] as const) {
    test(`${signal} ends a waiting command with exit ${expected}`, async () => {
      await using server = await startFakeServer()
      const asked = Promise.withResolvers<void>()
      server.override = () => {
        asked.resolve()
        return true
      }
      const child = spawn(process.execPath, [MAIN, 'du', '--server', server.url], {
        stdio: 'ignore',
      })
      await asked.promise
      child.kill(signal)
      const [code] = (await once(child, 'exit')) as [number | null]
      assert.equal(code, expected)
    })
  }
})

describe('help', () => {
  test('without arguments: what it is and three commands to start', async () => {
    const { code, stdout } = await runCommand([])
    assert.equal(code, 0)
    assert.match(stdout, /^commonpage serves EROFS images/)
    assert.equal(stdout.match(/^ {2}commonpage /gm)?.length, 3)
  })

  test('-h is short, --help tells references and exit codes as well', async () => {
    const short = await runCommand(['-h'])
    const long = await runCommand(['--help'])
    assert.ok(long.stdout.startsWith(short.stdout.trimEnd()))
    assert.match(long.stdout, /Exit codes: 0 ok, 1 failure, 2 usage/)
  })

  test('the reference page is what the command tree gives', async () => {
    assert.equal(
      readFileSync(REFERENCE_PAGE, 'utf8'),
      await renderReference(),
      'run: npm run render',
    )
  })

  test('unknown commands and options: exit 2 and the nearest one', async () => {
    const command = await runCommand(['imag', 'ls'])
    assert.equal(command.code, 2)
    assert.match(
      command.stderr,
      /^error\[ERR_CLI_USAGE\]: unknown command 'imag'\nhint: did you mean image\?\n$/,
    )
    const option = await runCommand(['du', '--jsn'])
    assert.equal(option.code, 2)
    assert.match(option.stderr, /unknown option '--jsn'\nhint: did you mean --json\?/)
    const missing = await runCommand(['import', 'erofs', 'base.erofs'])
    assert.equal(missing.code, 2)
    assert.match(missing.stderr, /'REF'\nhint: commonpage import erofs --help shows/)
    const choice = await runCommand(['serve', '--log-level', 'x'])
    assert.match(
      choice.stderr,
      /'x' is invalid, expected one of trace, .*silent\nhint: commonpage serve --help/,
    )
    assert.equal((await runCommand(['image', 'tree', 'demo/x:1', '--depth', '0'])).code, 2)
    assert.equal((await runCommand(['image'])).code, 2)
    assert.equal((await runCommand(['image', 'show', 'x'])).code, 2)
    assert.equal((await runCommand(['du', '--server', 'ftp://x'])).code, 2)
  })

  test('--version prints the version of the package', () => {
    const { status, stdout } = spawnSync(process.execPath, [MAIN, '--version'], {
      encoding: 'utf8',
    })
    const manifest = readFileSync(join(import.meta.dirname, '../../package.json'), 'utf8')
    const { version } = JSON.parse(manifest) as { version: string }
    assert.deepEqual([status, stdout], [0, `${version}\n`])
  })
})

describe('completion', () => {
  test('bash completes commands, options and closed sets of values', async () => {
    const { stdout } = await runCommand(['completion', 'bash'])
    const complete = (line: string): string[] => {
      const words = line.split(' ')
      const script = `${stdout}
COMP_WORDS=(${words.map((word) => `'${word}'`).join(' ')})
COMP_CWORD=${words.length - 1}
_commonpage
printf '%s\\n' "\${COMPREPLY[@]}"`
      const {
        status,
        stdout: replies,
        stderr,
      } = spawnSync('bash', ['-c', script], { encoding: 'utf8' })
      assert.equal(status, 0, stderr)
      return replies.trim().split('\n')
    }
    assert.deepEqual(complete('commonpage i'), ['import', 'image'])
    assert.deepEqual(complete('commonpage image t'), ['tag', 'tree'])
    assert.deepEqual(complete('commonpage image tree demo/x:1 --d'), ['--depth'])
    assert.deepEqual(complete('commonpage import erofs --progress j'), ['json'])
    assert.deepEqual(complete('commonpage completion z'), ['zsh'])
    assert.ok(complete('commonpage serve --').includes('--cache-size'))
  })

  for (const shell of ['zsh', 'fish']) {
    test(`${shell}: names every command and is accepted by the shell where it is installed`, async () => {
      const { stdout } = await runCommand(['completion', shell])
      for (const command of commandNames()) {
        for (const word of command.split(' ')) assert.ok(stdout.includes(word), word)
      }
      const { error, status, stderr } = spawnSync(shell, ['-n'], {
        input: stdout,
        encoding: 'utf8',
      })
      if (error === undefined) assert.equal(status, 0, stderr)
    })
  }

  test('another shell is refused', async () => {
    assert.equal((await runCommand(['completion', 'csh'])).code, 2)
  })
})

describe('machine', () => {
  test('config check and print: exit codes and origins', async () => {
    const missing = await runCommand(['config', 'check', '/nonexistent.yaml'])
    assert.equal(missing.code, 2)
    const env = { COMMONPAGE_HTTP__LISTEN: '127.0.0.1:7' }
    const printed = await runCommand(['config', 'print', '--origin', '--nbd', '127.0.0.1:8'], {
      env,
    })
    assert.match(
      printed.stdout,
      /^http\.listen +127\.0\.0\.1:7 +environment COMMONPAGE_HTTP__LISTEN$/m,
    )
    assert.match(printed.stdout, /^nbd\.listen +127\.0\.0\.1:8 +flag --nbd$/m)
    assert.match(printed.stdout, /^data +\.\/data +default$/m)
    const exposed = await runCommand(['serve', '--http', '0.0.0.0:8080'])
    assert.equal(exposed.code, 2)
    assert.match(exposed.stderr, /error\[ERR_CONFIG_INSECURE\]/)
    const schema = JSON.parse((await runCommand(['config', 'schema'])).stdout) as {
      properties: object
    }
    assert.ok('cache' in schema.properties)
  })

  test('doctor: each finding has a level and a fix; a port of another program fails', async () => {
    await using other = await startFakeServer()
    other.override = (_request, response) => {
      response.end('not commonpage')
      return true
    }
    const { port } = new URL(other.url)
    assert.equal(await listenRefusal({ host: '127.0.0.1', port: Number(port) }), 'EADDRINUSE')
    const nbd = createServer((socket) => socket.end('NBDMAGICIHAVEOPT')).listen(0, '127.0.0.1')
    await once(nbd, 'listening')
    const nbdPort = (nbd.address() as AddressInfo).port
    const args = [
      'doctor',
      '--json',
      '--http',
      `127.0.0.1:${port}`,
      '--nbd',
      `127.0.0.1:${nbdPort}`,
    ]
    const { code, stdout, stderr } = await runCommand([...args, '--data', '/dev/null'])
    nbd.close()
    assert.equal(code, 1)
    assert.match(stderr, /ERR_CLI_DOCTOR/)
    type Finding = { level: string; name: string; fix?: string }
    const report = JSON.parse(stdout) as { ok: boolean; server: Finding[]; client: Finding[] }
    assert.equal(report.ok, false)
    const failed = report.server.filter(({ level }) => level === 'fail').map(({ name }) => name)
    assert.deepEqual(failed, ['http port', 'data directory'])
    for (const { level, fix } of [...report.server, ...report.client]) {
      assert.equal(fix === undefined, level === 'ok')
    }
    // The permission bits of /proc let root write, and no folder can be made there.
    const free = ['--http', '127.0.0.1:0', '--nbd', '127.0.0.1:0', '--data', '/proc/nope']
    const below = JSON.parse((await runCommand(['doctor', '--json', ...free])).stdout) as {
      server: Finding[]
    }
    const data = below.server.find(({ name }) => name === 'data directory')
    assert.equal(data?.level, 'fail')
  })
})
