/** Imports as jobs, with real processes that end in every way a process can. */
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { constants, getPriority } from 'node:os'
import { describe, test } from 'node:test'

import { AppError, siblingModule } from '../../src/core/index.ts'
import type { ImportProcessesOptions } from '../../src/server/import-processes.ts'
import { ImportProcesses } from '../../src/server/import-processes.ts'
import type { Job } from '../../src/server/http/index.ts'
import { Jobs } from '../../src/server/jobs.ts'
import { missing } from '../requires.ts'

const CHILD = siblingModule(import.meta.url, './import-child')
const REPORT = { ref: 'd/a:1' } as unknown as NonNullable<Job['report']>
const LONG_MS = 60_000

type Line = { readonly level: string; readonly event?: unknown; readonly code?: unknown }

interface Rig extends AsyncDisposable {
  readonly jobs: Jobs
  readonly processes: ImportProcesses
  readonly lines: readonly Line[]
  readonly cleaned: readonly string[]
  add(name: string, behave: string, publish?: () => Promise<Job['report']>): Job
}

function rig(options: Partial<ImportProcessesOptions> = {}): Rig {
  const processes = new ImportProcesses({
    concurrency: 1,
    module: CHILD,
    stopGraceMs: 300,
    ...options,
  })
  const lines: Line[] = []
  const cleaned: string[] = []
  const at = (level: string) => (fields: Record<string, unknown>) =>
    lines.push({ level, ...fields })
  const logger = { info: at('info'), warn: at('warn'), error: at('error') }
  const jobs = new Jobs({ processes, logger })
  return {
    jobs,
    processes,
    lines,
    cleaned,
    add: (name, behave, publish = () => Promise.resolve(REPORT)) =>
      jobs.add({
        ref: name,
        start: { type: 'start', behave, report: 1 },
        publish,
        cleanup: () => {
          cleaned.push(name)
          return Promise.resolve()
        },
      }),
    [Symbol.asyncDispose]: () => processes[Symbol.asyncDispose](),
  }
}

/** Resolves when the job has said what its process does. */
async function phase(jobs: Jobs, id: string, wanted: string): Promise<Job> {
  for (;;) {
    const job = await jobs.get(id, 5)
    if (job.phase === wanted) return job
    assert.equal(job.finishedAt, undefined, JSON.stringify(job))
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

/** sched(7); field 41 of /proc/PID/stat */
const SCHED_IDLE = '5'
const POLICY_FIELD = 41

describe('jobs', () => {
  test('a process runs when nobody else wants to', { skip: missing('chrt') }, async () => {
    await using server = rig()
    const { id } = server.add('d/idle:1', 'hang')
    const { doneBytes: pid } = await phase(server.jobs, id, 'hang')
    const deadline = Date.now() + 5000
    let policy: string | undefined
    while (policy !== SCHED_IDLE && Date.now() < deadline) {
      const stat = await readFile(`/proc/${pid}/stat`, 'utf8')
      policy = stat.split(') ')[1]?.split(' ')[POLICY_FIELD - 3]
    }
    assert.equal(policy, SCHED_IDLE)
    assert.equal(getPriority(pid), constants.priority.PRIORITY_LOW)
  })

  test('an import that works: progress, publication, report, one clean-up, a line', async () => {
    await using at = rig()
    const job = at.add('a', 'done')
    assert.equal(job.state, 'queued')
    const ended = await at.jobs.get(job.id, LONG_MS)
    assert.deepEqual(
      { state: ended.state, report: ended.report, done: ended.doneBytes, total: ended.totalBytes },
      { state: 'done', report: REPORT, done: 10, total: 10 },
    )
    assert.deepEqual(at.cleaned, ['a'])
    assert.deepEqual(at.jobs.ended, { done: 1, failed: 0, cancelled: 0 })
    assert.deepEqual(
      at.lines.map(({ level, event }) => [level, event]),
      [['info', 'import.done']],
    )
  })

  test('an import that fails, exits or is killed says so by code', async () => {
    await using at = rig()
    for (const [behave, code] of [
      ['fail', 'ERR_EROFS_BAD_MAGIC'],
      ['exit', 'ERR_IMPORT_PROCESS'],
      ['killed', 'ERR_IMPORT_PROCESS'],
    ] as const) {
      const ended = await at.jobs.get(at.add(behave, behave).id, LONG_MS)
      assert.equal(ended.state, 'failed')
      assert.equal(ended.error?.code, code)
    }
    assert.deepEqual(at.cleaned, ['fail', 'exit', 'killed'])
    assert.equal(at.jobs.ended.failed, 3)
  })

  test('a process that could not tidy up is told of, before its job ends', async () => {
    const crashes: unknown[] = []
    await using at = rig({
      onCrash: (pid, start) => {
        crashes.push([pid > 1, start['behave'], at.cleaned.length])
        return Promise.resolve()
      },
    })
    for (const behave of ['done', 'fail', 'exit', 'killed']) {
      await at.jobs.get(at.add(behave, behave).id, LONG_MS)
    }
    assert.deepEqual(crashes, [
      [true, 'exit', 2],
      [true, 'killed', 3],
    ])
  })

  test('a program that cannot be started fails its job, and nothing else', async () => {
    await using at = rig({ module: new URL('file:///nowhere/at-all.ts') })
    const ended = await at.jobs.get(at.add('a', 'done').id, LONG_MS)
    assert.equal(ended.error?.code, 'ERR_IMPORT_PROCESS')
  })

  test('publication that fails fails the job, logged with its cause when the fault is ours', async () => {
    await using at = rig()
    const ours = at.add('ours', 'done', () => Promise.reject(new TypeError('bug')))
    assert.equal((await at.jobs.get(ours.id, LONG_MS)).error?.code, 'ERR_INTERNAL')
    const refused = new AppError('ERR_STORE_REF_CONFLICT', 'changed')
    const theirs = at.add('theirs', 'done', () => Promise.reject(refused))
    assert.equal((await at.jobs.get(theirs.id, LONG_MS)).error?.code, 'ERR_STORE_REF_CONFLICT')
    assert.deepEqual(
      at.lines.map(({ level }) => level),
      ['error', 'warn'],
    )
  })

  test('what an import received is given back before its result is published', async () => {
    await using at = rig()
    let cleanedBefore: string[] = []
    const job = at.add('a', 'done', () => {
      cleanedBefore = [...at.cleaned]
      return Promise.resolve(REPORT)
    })
    assert.equal((await at.jobs.get(job.id, LONG_MS)).state, 'done')
    assert.deepEqual(cleanedBefore, ['a'])
  })

  test('cancelling: one that runs, one that is deaf, one that waits; the queue goes on', async () => {
    await using at = rig()
    const running = at.add('running', 'hang')
    const waiting = at.add('waiting', 'done')
    const next = at.add('next', 'deaf')
    await phase(at.jobs, running.id, 'hang')
    assert.equal((await at.jobs.cancel(waiting.id)).state, 'cancelled')
    assert.equal((await at.jobs.get(running.id)).state, 'running')
    assert.equal((await at.jobs.cancel(running.id)).error?.code, 'ERR_JOB_CANCELLED')
    const deaf = await phase(at.jobs, next.id, 'deaf')
    assert.equal((await at.jobs.cancel(next.id)).state, 'cancelled')
    assert.equal(isAlive(deaf.doneBytes), false)
    assert.deepEqual(at.cleaned, ['waiting', 'running', 'next'])
    assert.equal((await at.jobs.get(at.add('last', 'done').id, LONG_MS)).state, 'done')
  })

  test('cancelling a job in the moment in which its turn comes keeps the rest of the queue', async () => {
    await using at = rig()
    const first = at.add('first', 'hang')
    const second = at.add('second', 'hang')
    const third = at.add('third', 'done')
    await phase(at.jobs, first.id, 'hang')
    await Promise.all([at.jobs.cancel(first.id), at.jobs.cancel(second.id)])
    assert.equal((await at.jobs.get(third.id, LONG_MS)).state, 'done')
  })

  test('cancelling while it is published waits, and the import stands', async () => {
    await using at = rig()
    const publishing = Promise.withResolvers<void>()
    const go = Promise.withResolvers<void>()
    const job = at.add('a', 'done', async () => {
      publishing.resolve()
      await go.promise
      return REPORT
    })
    await publishing.promise
    const cancelled = at.jobs.cancel(job.id)
    go.resolve()
    assert.equal((await cancelled).state, 'done')
  })

  test('a process that gave its result and does not end is ended', async () => {
    await using at = rig()
    const job = await at.jobs.get(at.add('a', 'linger').id, LONG_MS)
    assert.equal(job.state, 'done')
    assert.equal((await at.jobs.get(at.add('b', 'done').id, LONG_MS)).state, 'done')
  })

  test('close cancels all there is and all that comes; disposing leaves no process', async () => {
    const at = rig({ concurrency: 2 })
    const running = [at.add('a', 'hang'), at.add('b', 'deaf'), at.add('c', 'done')]
    const { doneBytes: pid } = await phase(at.jobs, running[1]?.id ?? '', 'deaf')
    const closed = at.jobs.close()
    const late = at.add('late', 'done')
    await closed
    for (const { id } of [...running, late])
      assert.equal((await at.jobs.get(id, LONG_MS)).state, 'cancelled')
    const direct = at.processes.run({ behave: 'deaf' })
    const refused = assert.rejects(direct, { code: 'ERR_ABORTED' })
    await at[Symbol.asyncDispose]()
    await refused
    await assert.rejects(at.processes.run({ behave: 'done' }), { code: 'ERR_ABORTED' })
    assert.equal(isAlive(pid), false)
  })

  test('images of one domain one after the other; other work goes by', async () => {
    await using at = rig({ concurrency: 3 })
    const started: string[] = []
    const run = (name: string, work: string, domain: string) => {
      const stop = new AbortController()
      const onStart = (): void => void started.push(name)
      const end = at.processes.run(
        { behave: 'hang', work, domain },
        { signal: stop.signal, onStart },
      )
      return async (): Promise<void> => {
        stop.abort()
        await assert.rejects(end, (error) => error instanceof AppError)
      }
    }
    const first = run('a1', 'import', 'a')
    const second = run('a2', 'import', 'a')
    const third = run('a3', 'import', 'a')
    const others = [run('b1', 'import', 'b'), run('blob', 'blob', 'a'), run('late', 'blob', 'b')]
    await new Promise(setImmediate)
    assert.deepEqual(started, ['a1', 'b1', 'blob'])
    await first()
    assert.deepEqual(started, ['a1', 'b1', 'blob', 'a2'])
    await Promise.all(others.map((stop) => stop()))
    assert.equal(at.processes.waiting, 1)
    await second()
    assert.equal(started.at(-1), 'a3')
    await third()
    assert.equal(at.processes.waiting, 0)
  })

  test('more than 256 may not wait', async () => {
    await using at = rig()
    const jobs = Array.from({ length: 258 }, (_, i) => at.add(String(i), 'hang'))
    const last = await at.jobs.get(jobs.at(-1)?.id ?? '', LONG_MS)
    assert.equal(last.error?.code, 'ERR_JOBS_EXHAUSTED')
    await at.jobs.close()
    assert.equal(at.cleaned.length, 258)
  })

  test('unknown ids', async () => {
    await using at = rig()
    await assert.rejects(at.jobs.get('x'), { code: 'ERR_JOB_NOT_FOUND' })
    await assert.rejects(at.jobs.cancel('x'), { code: 'ERR_JOB_NOT_FOUND' })
  })
})
