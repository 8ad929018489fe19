/** The loads under which NBD servers are compared and profiled, and the read that makes all of them hits. */
import type { Contender } from './contenders.ts'
import type { NbdLoad } from './load.ts'
import { fio } from './load.ts'
import type { Target } from './report.ts'

const seconds = Number(process.env['BENCH_SECONDS'] ?? 3)

export const HIT_LOADS: Readonly<Record<string, NbdLoad>> = {
  '4 KiB, depth 1': { blockBytes: 4096, depth: 1, connections: 1, seconds },
  '4 KiB, depth 32': { blockBytes: 4096, depth: 32, connections: 1, seconds },
  '4 KiB, 4 connections × depth 32': { blockBytes: 4096, depth: 32, connections: 4, seconds },
  '128 KiB, depth 8': { blockBytes: 131_072, depth: 8, connections: 1, seconds },
  '1 MiB, depth 4': { blockBytes: 1_048_576, depth: 4, connections: 1, seconds },
}

/** What has to be reached on a quiet machine with two cores. */
export const HIT_TARGETS: Readonly<Record<string, Target>> = {
  '4 KiB, depth 1': { rival: 'nbdkit', rate: 1 },
  '4 KiB, depth 32': { rival: 'nbdkit', rate: 1.3, cpu: 1 },
  '4 KiB, 4 connections × depth 32': { rival: 'nbdkit', cpu: 1 },
  '128 KiB, depth 8': { rival: 'nbdkit', rate: 2, cpu: 1 },
  '1 MiB, depth 4': { rival: 'nbdkit', rate: 1.4 },
}

/** Reads the whole export once, in order. */
export async function readAll(contender: Contender, sizeBytes: number): Promise<void> {
  await fio(contender, {
    blockBytes: 1_048_576,
    depth: 4,
    connections: 1,
    seconds: 0,
    pattern: 'read',
    onceBytes: sizeBytes,
  })
}
