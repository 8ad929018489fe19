/** The page's pure parts, its files, and the page itself in a browser where there is one. */
import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { after, describe, test } from 'node:test'

import { loadDashboard } from '../../src/dashboard/index.ts'
import { startTestServer } from '../http/test-server.ts'
import { hasChromium, Page } from './browser.ts'

const STATIC = new URL('../../src/dashboard/static/', import.meta.url)
const format = await import(new URL('format.js', STATIC).href)
const feed = await import(new URL('feed.js', STATIC).href)
const view = await import(new URL('view.js', STATIC).href)

describe('files', () => {
  test('the whole page is below 60 kB and asks nothing of anybody else', async () => {
    const files = await loadDashboard()
    const total = [...files.values()].reduce((sum, file) => sum + file.body.length, 0)
    assert.ok(total < 60_000, `${total} bytes`)
    for (const [name, { body }] of files) {
      const foreign = body.toString().match(/(?:https?:)?\/\/[a-z][\w.-]+\.\w+/g) ?? []
      assert.deepEqual(
        foreign.filter((url) => url !== 'http://www.w3.org'),
        [],
        name,
      )
      assert.doesNotMatch(
        body.toString(),
        /\son\w+="|style="|javascript:/,
        `${name}: the CSP forbids inline code`,
      )
    }
  })
})

describe('numbers', () => {
  test('sizes, ratios and times read well', () => {
    assert.equal(format.formatSize(0), '0 B')
    assert.equal(format.formatSize(1023), '1.0 KiB')
    assert.equal(format.formatSize(1_610_612_736), '1.5 GiB')
    assert.equal(format.formatRatio(0, 0), '–')
    assert.equal(format.formatRatio(9999, 10_000), '> 99.9 %')
    assert.equal(format.formatRatio(10, 10), '100 %')
    assert.equal(format.formatFactor(1_000_000, 100), '10,000')
    assert.equal(format.formatAge(3725), '1 h 2 min')
  })

  test('the headline says what sharing saved', () => {
    assert.deepEqual(view.headline({ servedBytes: 10_485_760, storeReadBytes: 1_048_576 }), {
      before: 'Served',
      factor: '10 times',
      text: 'from one memory',
      detail: '10.0 MiB served, 1.0 MiB read from the store.',
    })
    assert.equal(view.headline({ servedBytes: 0, storeReadBytes: 0 }).text, 'Nothing served yet')
  })

  test('rows are filtered and sorted, and the choice survives in the URL', () => {
    const images = {
      'd/b:1': { digest: 'x', addedBytes: 2 },
      'd/a:1': { digest: 'y', addedBytes: 5 },
    }
    const rows = (choice: object) =>
      view
        .imageRows(images, { filter: '', sort: 'addedBytes', ascending: false, ...choice })
        .map((row: { ref: string }) => row.ref)
    assert.deepEqual(rows({}), ['d/a:1', 'd/b:1'])
    assert.deepEqual(rows({ ascending: true }), ['d/b:1', 'd/a:1'])
    assert.deepEqual(rows({ filter: 'B:' }), ['d/b:1'])
    const choice = { filter: 'a b', sort: 'ref', ascending: true }
    assert.deepEqual(view.readChoice(view.writeChoice(choice)), choice)
    assert.equal(view.readChoice('?sort=__proto__').sort, 'touchedBytes')
  })
})

describe('feed state', () => {
  test('follows deltas, and starts again after a gap', () => {
    const state = new feed.FeedState()
    assert.equal(state.take({ type: 'delta', seq: 1, patch: {} }), 'ignored')
    assert.equal(
      state.take({ type: 'snapshot', seq: 4, state: { a: 1, rows: { x: 1, y: 2 } } }),
      'updated',
    )
    assert.equal(
      state.take({ type: 'delta', seq: 5, patch: { rows: { x: null, z: 3 } } }),
      'updated',
    )
    assert.deepEqual(state.state, { a: 1, rows: { y: 2, z: 3 } })
    assert.equal(state.take({ type: 'delta', seq: 7, patch: {} }), 'gap')
    assert.equal(state.take({ type: 'delta', seq: 8, patch: {} }), 'ignored')
    assert.equal(state.take({ type: 'snapshot', seq: 9, state: { a: 2 } }), 'updated')
  })
})

const browser = hasChromium()
const shots = process.env['COMMONPAGE_SCREENSHOTS']

describe('in a browser', { skip: browser ? false : 'chromium is not installed' }, () => {
  const full = startTestServer()
  const empty = startTestServer()
  after(async () => {
    await (await full)[Symbol.asyncDispose]()
    await (await empty)[Symbol.asyncDispose]()
  })
  const keep = async (page: Page, name: string) => {
    if (shots !== undefined) await writeFile(`${shots}/${name}.png`, await page.screenshot())
  }
  const NO_SIDEWAYS = 'document.documentElement.scrollWidth <= innerWidth'

  for (const [name, width, height, dark] of [
    ['light', 1280, 900, false],
    ['dark', 1280, 900, true],
    ['phone', 360, 900, false],
    ['wall', 3840, 2160, true],
  ] as const) {
    test(`${name}: ${width} pixels wide, live and without complaint`, async () => {
      const server = await full
      await using page = await Page.open({ width, height, dark })
      await page.go(server.url)
      await page.until("document.body?.dataset.state === 'live'")
      await page.until("document.querySelectorAll('#image-table tbody tr').length === 3")
      assert.equal(await page.evaluate("document.querySelector('#factor').textContent"), '10 times')
      assert.equal(await page.evaluate(NO_SIDEWAYS), true)
      await keep(page, name)
      assert.deepEqual(page.complaints, [])
    })
  }

  test('empty, then the server goes away', async () => {
    const server = await empty
    server.planes.images.clear()
    const stats = await server.planes.control.stats()
    server.planes.control.stats = () =>
      Promise.resolve({ ...stats, clients: [], images: 0, servedBytes: 0, storeReadBytes: 0 })
    await using page = await Page.open({ width: 900, height: 800, dark: false })
    await page.go(server.url)
    await page.until("document.body?.dataset.state === 'live'")
    await page.until(
      "!document.querySelector('#images-empty').hidden && !document.querySelector('#clients-empty').hidden",
    )
    assert.equal(
      await page.evaluate("document.querySelector('#factor-text').textContent"),
      'Nothing served yet',
    )
    await keep(page, 'empty')
    server.planes.control.stats = () => Promise.reject(new Error('not now'))
    await page.until("document.body.dataset.state === 'stale'")
    server.app.websocketServer.clients.forEach((client) => client.terminate())
    await page.until("document.body.dataset.state === 'error'")
    await keep(page, 'error')
  })

  test('the keyboard reaches the filter and the columns', async () => {
    const server = await full
    await using page = await Page.open({ width: 1000, height: 800, dark: false })
    await page.go(`${server.url}/?q=two`)
    await page.until("document.querySelectorAll('#image-table tbody tr').length === 1")
    await page.evaluate(
      "document.body.dispatchEvent(new KeyboardEvent('keydown', { key: '/', bubbles: true }))",
    )
    assert.equal(await page.evaluate('document.activeElement.id'), 'filter')
    await page.evaluate(
      "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape', bubbles: true }))",
    )
    await page.until("document.querySelectorAll('#image-table tbody tr').length === 3")
    await page.evaluate("document.querySelector('th[data-sort=ref] button').click()")
    assert.equal(await page.evaluate('location.search'), '?sort=ref&order=asc')
    assert.equal(
      await page.evaluate("document.querySelector('th[data-sort=ref]').getAttribute('aria-sort')"),
      'ascending',
    )
  })
})
