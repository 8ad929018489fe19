/**
 * Makes deploy/grafana/commonpage.json, a Grafana dashboard, from dashboard-panels.ts: panels are laid out
 * row by row on Grafana's grid of 24 columns. `npm run render` writes it.
 */
import { join } from 'node:path'

import { ROWS } from './dashboard-panels.ts'
import type { Panel } from './dashboard-panels.ts'
import { ROOT } from './steps.ts'

export const DASHBOARD_FILE = join(ROOT, 'deploy/grafana/commonpage.json')

const COLUMNS = 24
const HEIGHT = { stat: 4, timeseries: 8, stacked: 8, table: 8 } as const
/** Grafana 10 introduced what is used here. */
const SCHEMA_VERSION = 38
const DATASOURCE = { type: 'prometheus', uid: '${datasource}' } as const

type Json = Record<string, unknown>

export function renderDashboard(): string {
  const panels: Json[] = []
  let y = 0
  for (const row of ROWS) {
    const id = panels.length + 1
    panels.push({
      id,
      type: 'row',
      title: row.title,
      collapsed: false,
      gridPos: { x: 0, y, w: COLUMNS, h: 1 },
      panels: [],
    })
    y += 1
    let x = 0
    let height = 0
    for (const panel of row.panels) {
      if (x + panel.width > COLUMNS) {
        x = 0
        y += height
        height = 0
      }
      const h = HEIGHT[panel.kind]
      panels.push(renderPanel(panels.length + 1, panel, { x, y, w: panel.width, h }))
      x += panel.width
      height = Math.max(height, h)
    }
    y += height
  }
  return `${JSON.stringify(dashboard(panels), null, 2)}\n`
}

function dashboard(panels: readonly Json[]): Json {
  return {
    title: 'Commonpage',
    uid: 'commonpage',
    description:
      'One page cache for all images: what it holds, what sharing saves, what clients see.',
    tags: ['commonpage'],
    schemaVersion: SCHEMA_VERSION,
    version: 1,
    editable: true,
    graphTooltip: 1,
    refresh: '30s',
    time: { from: 'now-1h', to: 'now' },
    timezone: 'browser',
    templating: { list: variables() },
    annotations: {
      list: [
        {
          name: 'Starts',
          enable: true,
          datasource: DATASOURCE,
          expr: 'changes(commonpage_start_time_seconds{job="$job",instance=~"$instance"}[1m]) > 0',
          iconColor: 'blue',
          titleFormat: 'started',
          textFormat: '{{instance}}',
        },
      ],
    },
    panels,
  }
}

function variables(): Json[] {
  return [
    { name: 'datasource', label: 'Data source', type: 'datasource', query: 'prometheus' },
    { ...labelValues('job', 'label_values(commonpage_build_info, job)'), label: 'Job' },
    {
      ...labelValues('instance', 'label_values(commonpage_build_info{job="$job"}, instance)'),
      label: 'Instance',
      multi: true,
      includeAll: true,
      allValue: '.*',
    },
    {
      name: 'interval',
      label: 'Smallest step',
      type: 'interval',
      query: '15s,30s,1m,5m,15m',
      current: { text: '15s', value: '15s' },
    },
  ]
}

function labelValues(name: string, query: string): Json {
  return {
    name,
    type: 'query',
    datasource: DATASOURCE,
    query: { query, refId: name },
    refresh: 2,
    sort: 1,
  }
}

function renderPanel(id: number, panel: Panel, gridPos: Json): Json {
  const table = panel.kind === 'table'
  const targets = Object.entries(panel.queries).map(([legend, expr], index) => ({
    refId: String.fromCharCode('A'.charCodeAt(0) + index),
    datasource: DATASOURCE,
    expr,
    legendFormat: legend,
    ...(table ? { format: 'table', instant: true } : { interval: '$interval' }),
  }))
  return {
    id,
    type: panel.kind === 'stacked' ? 'timeseries' : panel.kind,
    title: panel.title,
    description: panel.description,
    datasource: DATASOURCE,
    gridPos,
    targets,
    fieldConfig: { defaults: { unit: panel.unit, min: 0, custom: drawing(panel) }, overrides: [] },
    options: options(panel),
    ...(table ? { transformations: joinByImage(Object.keys(panel.queries)) } : {}),
  }
}

function drawing(panel: Panel): Json {
  if (panel.kind === 'stacked') return { fillOpacity: 30, stacking: { mode: 'normal', group: 'A' } }
  return panel.kind === 'timeseries' ? { fillOpacity: 10 } : {}
}

function options(panel: Panel): Json {
  switch (panel.kind) {
    case 'stat':
      return {
        reduceOptions: { calcs: ['lastNotNull'] },
        textMode: panel.unit === 'none' ? 'name' : 'value',
        graphMode: 'none',
      }
    case 'table':
      return { showHeader: true, sortBy: [{ displayName: 'touched', desc: true }] }
    case 'timeseries':
    case 'stacked':
      return {
        legend: { displayMode: 'list', placement: 'bottom' },
        tooltip: { mode: 'multi', sort: 'desc' },
      }
  }
}

/** One line per image with a column per query. */
function joinByImage(legends: readonly string[]): Json[] {
  const names = legends.map((legend, index) => [
    `Value #${String.fromCharCode(65 + index)}`,
    legend,
  ])
  return [
    { id: 'merge', options: {} },
    {
      id: 'organize',
      options: { excludeByName: { Time: true }, renameByName: Object.fromEntries(names) as Json },
    },
  ]
}
