/** Puts a state on the page. It changes text and attributes only where they differ, so nothing jumps. */
import { formatAge, formatCount, formatFactor, formatRatio, formatSize } from './format.js'

const COLUMNS = [
  ['logicalBytes', 'Logical'],
  ['storedBytes', 'Stored'],
  ['uniqueBytes', 'Unique'],
  ['sharedBytes', 'Shared'],
  ['residentBytes', 'Resident'],
  ['touchedBytes', 'Touched'],
  ['addedBytes', 'Added'],
]

const byId = (id) => document.getElementById(id)

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text
}

/** What the user chose to see; kept in the URL. */
export function readChoice(search) {
  const params = new URLSearchParams(search)
  const sort = params.get('sort') ?? 'touchedBytes'
  const known = sort === 'ref' || COLUMNS.some(([key]) => key === sort)
  return {
    filter: params.get('q') ?? '',
    sort: known ? sort : 'touchedBytes',
    ascending: params.get('order') === 'asc',
  }
}

export function writeChoice({ filter, sort, ascending }) {
  const params = new URLSearchParams()
  if (filter !== '') params.set('q', filter)
  if (sort !== 'touchedBytes') params.set('sort', sort)
  if (ascending) params.set('order', 'asc')
  return params.size === 0 ? '' : `?${params}`
}

/** Rows of the image table in the chosen order. Pure. */
export function imageRows(images, { filter, sort, ascending }) {
  const wanted = filter.trim().toLowerCase()
  const rows = Object.entries(images)
    .map(([ref, image]) => ({ ref, ...image }))
    .filter((row) => `${row.ref} ${row.digest}`.toLowerCase().includes(wanted))
  const sign = ascending ? 1 : -1
  return rows.sort((a, b) => {
    if (a[sort] === b[sort]) return a.ref < b.ref ? -1 : 1
    return a[sort] < b[sort] ? -sign : sign
  })
}

/** The sentence that the server is for. Pure. */
export function headline({ servedBytes, storeReadBytes }) {
  const served = formatSize(servedBytes)
  if (servedBytes === 0) {
    return {
      before: '',
      factor: '',
      text: 'Nothing served yet',
      detail: 'Open an image over NBD or HTTP and watch this page.',
    }
  }
  if (storeReadBytes === 0) {
    return {
      before: '',
      factor: served,
      text: 'served, all of it from memory',
      detail: 'Nothing had to be read from the store.',
    }
  }
  return {
    before: 'Served',
    factor: `${formatFactor(servedBytes, storeReadBytes)} times`,
    text: 'from one memory',
    detail: `${served} served, ${formatSize(storeReadBytes)} read from the store.`,
  }
}

export function showState(state, choice, rates) {
  showHeadline(state)
  showTiles(state, rates)
  showJobs(state.jobs)
  showImages(state, choice)
  showClients(state)
  const up = (Date.now() - Date.parse(state.startedAt)) / 1000
  setText(byId('server-info'), `commonpage ${state.version}, up ${formatAge(up)}`)
}

export function showStatus(status, since) {
  document.body.dataset.state = status
  const age = since === 0 ? '' : ` Numbers are ${formatAge((Date.now() - since) / 1000)} old.`
  const text = {
    loading: 'Connecting…',
    live: 'Live',
    stale: `No news from the server.${age}`,
    error: `The server cannot be reached: is “commonpage serve” running? Trying again.${age}`,
  }
  setText(byId('status'), text[status])
}

function showHeadline(state) {
  const { before, factor, text, detail } = headline(state)
  setText(byId('before'), before)
  setText(byId('factor'), factor)
  setText(byId('factor-text'), text)
  setText(byId('saved-text'), detail)
}

function showTiles({ lookups, cache, totals }, rates) {
  const { hits, sharedHits, coalesced, misses } = lookups
  const all = hits + sharedHits + coalesced + misses
  setText(byId('hit-ratio'), formatRatio(hits + sharedHits, all))
  setText(byId('hit-note'), `of ${formatCount(all)} page lookups`)
  setText(byId('shared-hits'), formatCount(sharedHits))
  setText(byId('throughput'), rates === undefined ? '–' : `${formatSize(rates.served)}/s`)
  setText(
    byId('store-rate'),
    `from the store: ${rates === undefined ? '–' : `${formatSize(rates.store)}/s`}`,
  )
  const { capacityBytes, residentBytes, pinnedBytes, evictions, fillErrors } = cache
  setText(byId('resident'), `${formatSize(residentBytes)} of ${formatSize(capacityBytes)}`)
  const percent = (bytes) =>
    `${capacityBytes === 0 ? 0 : Math.min(100, (100 * bytes) / capacityBytes)}%`
  byId('memory-used').setAttribute('width', percent(residentBytes))
  byId('memory-pinned').setAttribute('width', percent(pinnedBytes))
  const meter = byId('memory-meter')
  meter.setAttribute('aria-valuenow', String(Math.round(Number.parseFloat(percent(residentBytes)))))
  meter.setAttribute(
    'aria-valuetext',
    `${formatSize(residentBytes)} of ${formatSize(capacityBytes)}`,
  )
  const errors = fillErrors === 0 ? '' : `, ${formatCount(fillErrors)} failed reads of the store`
  setText(
    byId('memory-note'),
    `${formatSize(pinnedBytes)} in use by replies, ${formatCount(evictions)} evictions${errors}; ` +
      `${formatSize(totals.storedBytes)} stored for ${formatSize(totals.logicalBytes)} of images`,
  )
}

function showJobs(jobs) {
  const rows = Object.values(jobs)
  byId('jobs-section').hidden = rows.length === 0
  keepChildren(byId('jobs'), rows.length, () => document.createElement('li'))
  rows.forEach(({ ref, state, phase, doneBytes, totalBytes }, i) => {
    const progress =
      totalBytes === 0 ? '' : `, ${formatRatio(doneBytes, totalBytes)} of ${formatSize(totalBytes)}`
    setText(
      byId('jobs').children[i],
      `${ref}: ${state === 'queued' ? 'waiting' : phase}${progress}`,
    )
  })
}

function showImages({ images, totals }, choice) {
  const rows = imageRows(images, choice)
  const all = Object.keys(images).length
  setText(byId('image-count'), all === 0 ? '' : formatCount(totals.images))
  byId('images-empty').hidden = all > 0
  byId('images-none').hidden = all === 0 || rows.length > 0
  byId('image-table').parentElement.hidden = rows.length === 0
  setText(
    byId('images-note'),
    totals.images > all ? `The ${all} most read are shown; “commonpage du” lists all.` : '',
  )
  for (const th of document.querySelectorAll('#image-table thead th')) {
    const order = choice.ascending ? 'ascending' : 'descending'
    if (th.dataset.sort === choice.sort) th.setAttribute('aria-sort', order)
    else th.removeAttribute('aria-sort')
  }
  const body = document.querySelector('#image-table tbody')
  keepChildren(body, rows.length, createImageRow)
  rows.forEach((row, i) => {
    const [name, ...cells] = body.children[i].children
    setText(name.firstChild, row.ref)
    setText(name.lastChild, row.digest.slice(7, 19))
    COLUMNS.forEach(([key], column) => setText(cells[column], formatSize(row[key])))
  })
}

function createImageRow() {
  const row = document.createElement('tr')
  const name = document.createElement('th')
  name.scope = 'row'
  const digest = document.createElement('span')
  digest.className = 'digest'
  name.append(document.createElement('span'), digest)
  row.append(name)
  for (const [, label] of COLUMNS) {
    const cell = document.createElement('td')
    cell.dataset.label = label
    row.append(cell)
  }
  return row
}

function showClients({ clients, totals, images }) {
  const rows = Object.values(clients)
  setText(byId('client-count'), rows.length === 0 ? '' : formatCount(totals.clients))
  byId('clients-empty').hidden = rows.length > 0
  byId('client-table').parentElement.hidden = rows.length === 0
  const [ref = 'DOMAIN/NAME:TAG'] = Object.keys(images)
  setText(
    byId('read-example'),
    `curl -r 0-4095 -o start.bin ${location.origin}/v1/images/${ref}/-/raw`,
  )
  const body = document.querySelector('#client-table tbody')
  keepChildren(body, rows.length, () => createCells(6))
  rows.forEach((row, i) => {
    const age = (Date.now() - Date.parse(row.connectedAt)) / 1000
    const texts = [
      row.address,
      row.kind.toUpperCase(),
      row.export ?? '–',
      formatSize(row.readBytes),
      formatCount(row.requests),
      `${formatAge(age)} ago`,
    ]
    texts.forEach((text, column) => setText(body.children[i].children[column], text))
  })
}

function createCells(count) {
  const row = document.createElement('tr')
  for (let i = 0; i < count; i++) row.append(document.createElement('td'))
  return row
}

/** Rows stay the same elements while their number stays: selections and focus survive an update. */
function keepChildren(parent, count, create) {
  while (parent.children.length > count) parent.lastElementChild.remove()
  while (parent.children.length < count) parent.append(create())
}
