/**
 * What deploy/ and the Dockerfile ship works with the tools that will read it, and speaks of metrics that
 * exist.
 */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { promisify } from 'node:util'

import { collectDefaultMetrics, Registry } from 'prom-client'

import { ROWS } from '../../scripts/dashboard-panels.ts'
import { DASHBOARD_FILE, renderDashboard } from '../../scripts/render-dashboard.ts'
import { ROOT } from '../../scripts/steps.ts'
import { METRICS } from '../../src/server/metrics/registry.ts'
import { missing } from '../requires.ts'

const run = promisify(execFile)
const PROMETHEUS = join(ROOT, 'deploy/prometheus')
const METRIC_NAME = /\b(?:commonpage|nodejs|process)_[a-z0-9_]+/g

function read(file: string): string {
  return readFileSync(join(ROOT, file), 'utf8')
}

/** Every series name that the server exposes, with the suffixes of histograms. */
async function exposedNames(): Promise<Set<string>> {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  const runtime = await registry.getMetricsAsJSON()
  const names = new Set<string>()
  for (const { name, type } of [...METRICS, ...runtime]) {
    names.add(name)
    if (type !== 'histogram') continue
    for (const suffix of ['_bucket', '_sum', '_count']) names.add(name + suffix)
  }
  return names
}

async function unknownNames(text: string): Promise<string[]> {
  const exposed = await exposedNames()
  const used = new Set(text.match(METRIC_NAME) ?? [])
  return [...used].filter((name) => !exposed.has(name))
}

describe('deploy/prometheus', () => {
  const skip = missing('promtool')

  test('promtool accepts the configuration and the rules', { skip }, async () => {
    await run('promtool', ['check', 'config', 'prometheus.yml'], { cwd: PROMETHEUS })
  })

  test('each alert fires on what it is for, and is silent before', { skip }, async () => {
    await run('promtool', ['test', 'rules', 'rules.test.yaml'], { cwd: PROMETHEUS })
    const alerts = [...read('deploy/prometheus/rules.yaml').matchAll(/- alert: (\w+)/g)]
    const tested = read('deploy/prometheus/rules.test.yaml')
    const untested = alerts.map(([, name = '']) => name).filter((name) => !tested.includes(name))
    assert.deepEqual(untested, [])
  })

  test('the rules speak of metrics that exist', async () => {
    assert.deepEqual(await unknownNames(read('deploy/prometheus/rules.yaml')), [])
  })

  test('every alert leads to a heading of the guide', () => {
    const guide = read('docs/guide/monitor.md')
    const rules = read('deploy/prometheus/rules.yaml')
    const links = [...rules.matchAll(/runbook_url: docs\/guide\/monitor\.md#(\w+)/g)]
    assert.equal(links.length, [...rules.matchAll(/- alert:/g)].length)
    const headings = new Set(
      [...guide.matchAll(/^#+ (\w+)$/gm)].map(([, heading = '']) => heading.toLowerCase()),
    )
    assert.deepEqual(links.filter(([, anchor = '']) => !headings.has(anchor)).map(String), [])
  })
})

describe('deploy/grafana', () => {
  test('the file is what is rendered from the panels', () => {
    const file = readFileSync(DASHBOARD_FILE, 'utf8')
    assert.equal(file, renderDashboard(), 'run: npm run render')
  })

  test('every panel is described and speaks of metrics that exist', async () => {
    const panels = ROWS.flatMap((row) => row.panels)
    assert.deepEqual(
      panels.filter(({ description }) => description === '').map(({ title }) => title),
      [],
    )
    assert.deepEqual(await unknownNames(JSON.stringify(panels)), [])
  })

  test('every metric of ours is on a panel', () => {
    const shown = new Set(readFileSync(DASHBOARD_FILE, 'utf8').match(METRIC_NAME) ?? [])
    const hidden = METRICS.filter(({ name }) => ![name, `${name}_bucket`].some((n) => shown.has(n)))
    assert.deepEqual(
      hidden.map(({ name }) => name),
      ALTERNATIVES,
    )
  })

  test('PromQL of every panel parses', { skip: missing('promtool') }, async () => {
    const rules = ROWS.flatMap((row) => row.panels).flatMap(({ queries }) =>
      Object.values(queries).map((query, index) => ({
        record: `panel:query:${index}`,
        expr: query
          .replaceAll('$__rate_interval', '1m')
          .replaceAll('$job', 'j')
          .replaceAll('$instance', 'i'),
      })),
    )
    const folder = await mkdtemp(join(tmpdir(), 'commonpage-panels-'))
    const file = join(folder, 'rules.yaml')
    // JSON is YAML.
    await writeFile(
      file,
      JSON.stringify({ groups: rules.map((rule, n) => ({ name: `g${n}`, rules: [rule] })) }),
    )
    await run('promtool', ['check', 'rules', '--lint=none', file])
    await rm(folder, { recursive: true })
  })
})

/** Counted in bytes on the same panel's place. */
const ALTERNATIVES = ['commonpage_cache_evictions_total', 'commonpage_cache_pages']

describe('deploy/systemd', () => {
  const skip = missing('systemd-analyze')

  async function withUnit<T>(use: (file: string) => Promise<T>): Promise<T> {
    const folder = await mkdtemp(join(tmpdir(), 'commonpage-unit-'))
    const file = join(folder, 'commonpage.service')
    // The command is not installed on a machine that runs tests; a program that every machine has stands for it.
    const text = read('deploy/systemd/commonpage.service')
    await writeFile(file, text.replace(/^ExecStart=commonpage /m, 'ExecStart=/bin/true '))
    try {
      return await use(file)
    } finally {
      await rm(folder, { recursive: true })
    }
  }

  test('systemd accepts the unit without a word', { skip }, async () => {
    await withUnit(async (file) => {
      const { stdout, stderr } = await run('systemd-analyze', [
        'verify',
        '--man=no',
        '--recursive-errors=no',
        file,
      ])
      assert.equal(stdout + stderr, '')
    })
  })

  test('systemd rates the unit as well confined', { skip }, async () => {
    await withUnit(async (file) => {
      // The threshold is ten times the exposure: 0 is confined best, 100 not at all.
      await run('systemd-analyze', ['security', '--offline=yes', '--threshold=20', file])
    })
  })
})
