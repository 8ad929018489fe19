/**
 * Metrics are an API: their names, types and help texts are compared with a snapshot (UPDATE_SNAPSHOTS=1 writes
 * it), the reference page with the code, and a live scrape with the rules of Prometheus.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'

import { METRICS_PAGE, renderMetrics } from '../../scripts/render-metrics.ts'
import { METRICS } from '../../src/server/metrics/registry.ts'
import { startServerProcess } from '../e2e/server-process.ts'
import { missing } from '../requires.ts'

const SNAPSHOT = join(import.meta.dirname, 'metrics.snapshot')

interface Sample {
  readonly name: string
  readonly labels: ReadonlyMap<string, string>
  readonly value: number
}

function samplesOf(text: string): Sample[] {
  return text
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => {
      const match = /^([a-z0-9_:]+)(?:\{(.*)\})? (\S+)$/i.exec(line)
      assert.ok(match, line)
      const labels = [...(match[2] ?? '').matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/g)]
      return {
        name: match[1] ?? '',
        labels: new Map(labels.map(([, label = '', value = '']) => [label, value])),
        value: match[3] === '+Inf' ? Infinity : Number(match[3]),
      }
    })
}

function keyOf({ name, labels }: Sample): string {
  return `${name}{${[...labels]
    .map(([label, value]) => `${label}=${value}`)
    .toSorted()
    .join()}}`
}

function definitionOf(name: string) {
  return METRICS.find(
    (metric) =>
      metric.name === name ||
      (metric.type === 'histogram' && name.replace(/_(bucket|sum|count)$/, '') === metric.name),
  )
}

async function promtool(text: string): Promise<string> {
  const child = spawn('promtool', ['check', 'metrics'], { stdio: ['pipe', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (piece: string) => (output += piece))
  child.stdin.end(text)
  const [code] = (await once(child, 'close')) as [number]
  return code === 0 ? output : `exit code ${code}: ${output}`
}

describe('definitions', () => {
  test('names, types and help texts are those of the snapshot', () => {
    const lines = METRICS.map(
      ({ name, type, labels, help }) => `${name}{${labels.join()}} ${type}: ${help}\n`,
    ).join('')
    if (process.env['UPDATE_SNAPSHOTS'] === '1') writeFileSync(SNAPSHOT, lines)
    assert.equal(lines, readFileSync(SNAPSHOT, 'utf8'))
  })

  test('the reference page lists exactly these', () => {
    const upToDate = readFileSync(METRICS_PAGE, 'utf8') === renderMetrics()
    assert.ok(upToDate, 'run: npm run render')
  })

  test('names follow the conventions', () => {
    assert.equal(new Set(METRICS.map(({ name }) => name)).size, METRICS.length)
    for (const { name, type, labels, help } of METRICS) {
      assert.match(name, /^commonpage_[a-z0-9_]+$/)
      assert.equal(name.endsWith('_total'), type === 'counter', name)
      if (type === 'histogram') assert.match(name, /_(seconds|bytes)$/)
      for (const label of labels) assert.match(label, /^[a-z]+$/)
      for (const label of labels) assert.doesNotMatch(label, /path|client|digest|peer|error/)
      assert.match(help, /^[A-Z0-9][^|\n]*\.$/)
    }
  })
})

test('a live scrape: valid, complete, of the labels that were announced, and counters only rise', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'commonpage-metrics-'))
  try {
    await using server = await startServerProcess({
      args: ['--workers', '2', '--cache-size', '64MiB'],
    })
    const scrape = async () => (await fetch(`${server.http}/metrics`)).text()
    const empty = await scrape()
    const file = join(folder, 'image')
    await writeFile(file, Buffer.alloc(300_000, 'some bytes of an image'))
    const imported = await server.run('import', 'erofs', file, 'demo/a:1')
    assert.equal(imported.code, 0, imported.stderr)
    const raw = `${server.http}/v1/images/demo/a:1/-/raw`
    assert.equal((await (await fetch(raw)).arrayBuffer()).byteLength, 300_000)
    const before = await scrape()
    for (let i = 0; i < 20; i++) await (await fetch(raw)).arrayBuffer()
    await fetch(`${server.http}/v1/images/demo/none:1`)
    const texts = await Promise.all([scrape(), scrape(), scrape()])
    const after = texts[0] ?? ''

    for (const text of [empty, before, ...texts]) {
      const samples = samplesOf(text)
      assert.equal(new Set(samples.map(keyOf)).size, samples.length, 'a series twice')
      for (const sample of samples) {
        if (!sample.name.startsWith('commonpage_')) continue
        const definition = definitionOf(sample.name)
        assert.ok(definition, sample.name)
        const labels = [...sample.labels.keys()].filter((label) => label !== 'le').toSorted()
        assert.deepEqual(labels, definition.labels.toSorted(), sample.name)
        assert.ok(Number.isFinite(sample.value), keyOf(sample))
        for (const value of sample.labels.values()) assert.doesNotMatch(value, /sha256:|127\.0\.0/)
      }
    }
    for (const { name } of METRICS) assert.match(after, new RegExp(`^# TYPE ${name} `, 'm'))

    const later = new Map(samplesOf(after).map((sample) => [keyOf(sample), sample.value]))
    for (const sample of samplesOf(before)) {
      const definition = definitionOf(sample.name)
      if (definition === undefined || definition.type === 'gauge') continue
      assert.ok((later.get(keyOf(sample)) ?? -1) >= sample.value, `${keyOf(sample)} fell`)
    }
    const sum = (text: string, name: string, label = '') =>
      samplesOf(text)
        .filter((sample) => sample.name === name && keyOf(sample).includes(label))
        .reduce((total, { value }) => total + value, 0)
    assert.equal(sum(empty, 'commonpage_images'), 0)
    assert.equal(sum(after, 'commonpage_images'), 1)
    assert.equal(sum(after, 'commonpage_imports_total', 'outcome=done'), 1)
    assert.equal(sum(after, 'commonpage_cache_served_bytes_total'), 21 * 300_000)
    assert.ok(sum(after, 'commonpage_store_read_bytes_total') <= 300_000 + 65_536)
    assert.ok(sum(after, 'commonpage_image_touched_bytes', 'image=demo/a:1') > 0)
    const lookups = sum(after, 'commonpage_cache_lookups_total')
    const missed = sum(after, 'commonpage_cache_lookups_total', 'result=miss')
    assert.ok(missed > 0 && lookups >= 21 * missed)

    const reason = missing('promtool')
    if (reason === false) assert.equal(await promtool(after), '')
    else t.diagnostic(`promtool: ${reason}`)
  } finally {
    await rm(folder, { recursive: true })
  }
})
