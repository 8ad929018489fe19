/** The page: ties the feed to the view and the controls to the URL. */
import { followFeed } from './feed.js'
import { readChoice, showState, showStatus, writeChoice } from './view.js'

/** Rates are taken over this time, so that a burst does not flicker. */
const RATE_WINDOW_MS = 5_000

let choice = readChoice(location.search)
let state
const samples = []

function currentRates() {
  const [first] = samples
  const last = samples.at(-1)
  const seconds = (last.at - first.at) / 1000
  if (seconds <= 0) return undefined
  // counters start again from 0 when the server restarts
  const rate = (key) => Math.max(0, last[key] - first[key]) / seconds
  return { served: rate('served'), store: rate('store') }
}

function show() {
  if (state !== undefined) showState(state, choice, currentRates())
}

function choose(change) {
  choice = { ...choice, ...change }
  history.replaceState(null, '', `${location.pathname}${writeChoice(choice)}`)
  show()
}

const filter = document.getElementById('filter')
filter.value = choice.filter
filter.addEventListener('input', () => choose({ filter: filter.value }))
document.addEventListener('keydown', (event) => {
  const typing = event.target instanceof HTMLInputElement
  if (event.key === '/' && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault()
    filter.focus()
  }
  if (event.key === 'Escape' && typing) {
    filter.value = ''
    choose({ filter: '' })
  }
})
for (const th of document.querySelectorAll('#image-table thead th')) {
  th.querySelector('button').addEventListener('click', () => {
    const sort = th.dataset.sort
    const again = sort === choice.sort
    choose({ sort, ascending: again ? !choice.ascending : sort === 'ref' })
  })
}

followFeed(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/v1/events`, {
  onState(next) {
    state = next
    const at = Date.now()
    samples.push({ at, served: next.servedBytes, store: next.storeReadBytes })
    while (samples[0].at < at - RATE_WINDOW_MS) samples.shift()
    show()
  },
  onStatus: showStatus,
})
