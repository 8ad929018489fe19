/** What the server does while it serves hits over NBD: a profile for each load of nbd-hits. Needs perf, as root. */
import { setTimeout as delay } from 'node:timers/promises'

import { commonpage } from './contenders.ts'
import { benchImage } from './image.ts'
import { fio } from './load.ts'
import { HIT_LOADS, readAll } from './hit-loads.ts'
import type { Profile } from './profile.ts'
import { forgetNames, profile, profileTable, PROFILED_NODE_ARGS } from './profile.ts'

const seconds = Number(process.env['BENCH_SECONDS'] ?? 3)
const files = Number(process.env['BENCH_FILES'] ?? 12_000)

await using image = await benchImage(files)
await using server = await commonpage({
  image: image.path,
  front: 'nbd',
  nodeArgs: PROFILED_NODE_ARGS,
})
const [pid = 0] = server.pids()
await readAll(server, image.sizeBytes)
const profiles = new Map<string, Profile>()
for (const [name, load] of Object.entries(HIT_LOADS)) {
  // A second before, so that the code is compiled, and one behind, so that the load outlasts the samples.
  const running = fio(server, { ...load, seconds: seconds + 2 })
  await delay(1000)
  const sampled = await profile(pid, seconds)
  await running
  if (sampled !== undefined) profiles.set(name, sampled)
}
await forgetNames(pid)
const text =
  profiles.size > 0
    ? profileTable(profiles)
    : 'Not taken: perf is missing (Debian: linux-perf) or not permitted.'
process.stdout.write(`## NBD, hits: where the server's time goes\n\n${text}\n`)
