/**
 * What the machine and the control groups of this process allow: cores, memory, and the smallest memory limit
 * that holds for the process. It looks; what follows from it is decided in derive.ts.
 */
import { readFile } from 'node:fs/promises'
import { availableParallelism, totalmem } from 'node:os'
import { dirname, join } from 'node:path'

export interface HostFacts {
  readonly cores: number
  readonly memoryBytes: number
  /** The smallest memory limit of the process's control groups, when it is below the memory. */
  readonly cgroupLimitBytes?: number
}

/**
 * Linux cgroup-v2: a group above `memory.high` is slowed down until it gives memory back, which a cache in
 * anonymous memory cannot: it is a limit as `memory.max` is.
 */
const V2_LIMITS: readonly string[] = ['memory.max', 'memory.high']
/** Linux cgroup-v1 "memory"; without a limit it is close to 2^63. */
const V1_LIMITS: readonly string[] = ['memory.limit_in_bytes']
const V1_CONTROLLER = 'memory'

/** @param root in front of `/proc` and `/sys`, for tests */
export async function readHostFacts(root = '/'): Promise<HostFacts> {
  const memoryBytes = totalmem()
  const limit = await cgroupLimit(root)
  return {
    cores: availableParallelism(),
    memoryBytes,
    ...(limit < memoryBytes ? { cgroupLimitBytes: limit } : {}),
  }
}

/** Infinity when there is none, or nobody says. */
async function cgroupLimit(root: string): Promise<number> {
  const mount = join(root, 'sys/fs/cgroup')
  const membership = (await readText(join(root, 'proc/self/cgroup'))) ?? ''
  let smallest = Infinity
  for (const line of membership.split('\n')) {
    const [, , controllers, path] = /^(\d+):([^:]*):(\/.*)$/.exec(line) ?? []
    if (controllers === undefined || path === undefined) continue
    const limit =
      controllers === ''
        ? await limitAbove(mount, path, V2_LIMITS)
        : controllers.split(',').includes(V1_CONTROLLER)
          ? await limitAbove(join(mount, V1_CONTROLLER), path, V1_LIMITS)
          : Infinity
    smallest = Math.min(smallest, limit)
  }
  return smallest
}

/**
 * The smallest limit of a group and those that it is in. Groups that are not there are passed over: in a container
 * the path may be the host's while the mount begins at the container's own group.
 */
async function limitAbove(mount: string, path: string, names: readonly string[]): Promise<number> {
  // A group outside of the process's namespace has no files here.
  let group = path.split('/').includes('..') ? '/' : path
  let smallest = Infinity
  for (;;) {
    for (const name of names) {
      const text = (await readText(join(mount, group, name)))?.trim() ?? ''
      if (/^\d+$/.test(text)) smallest = Math.min(smallest, Number(text))
    }
    if (group === '/') return smallest
    group = dirname(group)
  }
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
  } catch {
    return undefined
  }
}
