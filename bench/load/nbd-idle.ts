/**
 * What connections cost that do nothing: CPU of a server with 500 NBD clients that have an export open and ask for
 * nothing, as a fleet of mounted images does most of the day. The rule is less than 1 % of a core.
 */
import { setTimeout as delay } from 'node:timers/promises'

import { startServerProcess } from '../../test/e2e/server-process.ts'
import { NbdClient } from '../../test/e2e/soak/nbd-client.ts'
import { cpuSeconds, peakBytes } from './contenders.ts'
import type { Contender } from './contenders.ts'
import { benchImage } from './image.ts'
import { verdict } from './report.ts'

const SECONDS = Number(process.env['BENCH_IDLE_SECONDS'] ?? 10)
const CLIENTS = [0, 500]
const TARGET_PERCENT = 1

await using image = await benchImage(500)
const lines: string[] = []
for (const workers of ['1', '2']) {
  for (const clients of CLIENTS) {
    await using server = await startServerProcess({
      args: ['--cache-size', '128MiB', '--workers', workers],
    })
    const imported = await server.run('import', 'erofs', image.path, 'bench/image:1', '--quiet')
    if (imported.code !== 0) throw new Error(`import failed: ${imported.stderr}`)
    const address = { host: server.nbdHost, port: server.nbdPort }
    const open = await Promise.all(
      Array.from({ length: clients }, () => NbdClient.open(address, 'bench/image:1')),
    )
    // Each has read, so that nothing of its state is missing.
    await Promise.all(open.map((client, i) => client.read(4096 * i, 65_536)))
    const contender: Contender = {
      name: 'commonpage',
      url: '',
      pids: () => [server.pid],
      [Symbol.asyncDispose]: () => Promise.resolve(),
    }
    await delay(2000)
    const before = cpuSeconds(contender)
    await delay(SECONDS * 1000)
    const percent = ((cpuSeconds(contender) - before) / SECONDS) * 100
    const isMet = verdict(percent < TARGET_PERCENT)
    const peak = (peakBytes(contender) / 2 ** 20).toFixed(0)
    lines.push(`| ${workers} | ${clients} | ${percent.toFixed(2)} | ${isMet} | ${peak} |`)
    for (const client of open) await client[Symbol.asyncDispose]()
  }
}
process.stdout.write(
  [
    `## Idle NBD clients, over ${SECONDS} s`,
    '',
    `| workers | clients | % of a core | < ${TARGET_PERCENT} | peak MiB |`,
    '| ---: | ---: | ---: | --- | ---: |',
    ...lines,
    '',
  ].join('\n'),
)
