/**
 * Which frame size? A real program (Debian's Python with its standard library) is started from a kernel
 * mount over NBD, with the server's cache empty and the kernel's too, for each frame size in turn. What was
 * asked for, what came into memory for it, and how long the start took. Needs root.
 */
import { cp, mkdir, mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'

import { mountExport } from '../../test/e2e/kernel-mount.ts'
import { runOk, startServerProcess } from '../../test/e2e/server-process.ts'
import { median } from './load.ts'

const rounds = Number(process.env['BENCH_ROUNDS'] ?? 3)
const FRAME_SIZES = ['16KiB', '32KiB', '64KiB']
const PROGRAM =
  'import json, asyncio, http.server, email.mime.multipart, unittest.mock, xml.dom.minidom, sqlite3, logging.config, concurrent.futures, decimal, difflib, tarfile, zipfile, urllib.request, argparse, ctypes, multiprocessing, html.parser, statistics'

interface Start {
  readonly seconds: number
  readonly askedBytes: number
  readonly residentBytes: number
  readonly requests: number
}

const folder = await mkdtemp('/dev/shm/commonpage-frames-')
try {
  const tree = join(folder, 'tree')
  await mkdir(join(tree, 'lib'), { recursive: true })
  await cp('/usr/lib/python3.11', join(tree, 'lib/python3.11'), {
    recursive: true,
    verbatimSymlinks: true,
  })
  await cp('/usr/lib/python3', join(tree, 'lib/python3'), {
    recursive: true,
    verbatimSymlinks: true,
  })
  const image = join(folder, 'python.erofs')
  await runOk('mkfs.erofs', [image, tree])
  const results = new Map<string, Start[]>()
  for (let round = 0; round < rounds; round++) {
    for (const readahead of ['on', 'off']) {
      for (const size of FRAME_SIZES) {
        const key = `${size}, readahead ${readahead}`
        results.set(key, [
          ...(results.get(key) ?? []),
          await start(image, size, readahead === 'on'),
        ])
      }
    }
  }
  process.stdout.write('## Frame size: start of Python from a kernel mount\n\n')
  process.stdout.write(
    '| frame, readahead | asked MiB | resident MiB | resident ÷ asked | NBD requests | start s |\n| --- | ---: | ---: | ---: | ---: | ---: |\n',
  )
  for (const [key, starts] of results) {
    const of = (field: keyof Start): number => median(starts.map((one) => one[field]))
    const asked = of('askedBytes')
    const resident = of('residentBytes')
    const mib = (bytes: number): string => (bytes / 2 ** 20).toFixed(2)
    process.stdout.write(
      `| ${key} | ${mib(asked)} | ${mib(resident)} | ${(resident / asked).toFixed(2)} | ${of('requests').toFixed(0)} | ${of('seconds').toFixed(2)} |\n`,
    )
  }
} finally {
  await rm(folder, { recursive: true, force: true })
}

async function start(image: string, frameSize: string, readahead: boolean): Promise<Start> {
  const flags = readahead ? [] : ['--no-readahead']
  await using server = await startServerProcess({
    args: ['--cache-size', '256MiB', '--frame-size', frameSize, ...flags],
  })
  const imported = await server.run('import', 'erofs', image, 'bench/python:1', '--quiet')
  if (imported.code !== 0) throw new Error(imported.stderr)
  await using mounted = await mountExport(server.nbdUri('bench/python:1'))
  const before = performance.now()
  await runOk('env', [
    '-i',
    `PYTHONHOME=${mounted.path}`,
    'PYTHONDONTWRITEBYTECODE=1',
    '/usr/bin/python3',
    '-c',
    PROGRAM,
  ])
  const seconds = (performance.now() - before) / 1000
  const { cache } = await server.getJson<{ cache: { residentBytes: number } }>('/v1/stats')
  const metrics = await (await fetch(`${server.http}/metrics`)).text()
  const metric = (name: string): number =>
    Number(new RegExp(`^${name} (\\S+)`, 'm').exec(metrics)?.[1] ?? NaN)
  return {
    seconds,
    askedBytes: metric('commonpage_nbd_read_bytes_total'),
    residentBytes: cache.residentBytes,
    requests: Number(
      /^commonpage_nbd_requests_total\{command="READ"\} (\d+)/m.exec(metrics)?.[1] ?? NaN,
    ),
  }
}
