/** Numbers as people read them: IEC sizes, ratios, times. Pure. */
const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']

/** 1610612736 → `1.5 GiB`. @param {number} bytes */
export function formatSize(bytes) {
  let value = bytes
  let unit = 0
  while (Math.abs(value) >= 999.95 && unit < UNITS.length - 1) {
    value /= 1024
    unit++
  }
  return `${unit === 0 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`
}

/** 0.9876 → `98.8 %`; never rounds up to 100. @param {number} part @param {number} whole */
export function formatRatio(part, whole) {
  if (whole === 0) return '–'
  const percent = (100 * part) / whole
  if (part < whole && percent > 99.9) return '> 99.9 %'
  return `${percent.toFixed(percent === 100 ? 0 : 1)} %`
}

/** @param {number} count */
export function formatCount(count) {
  return count.toLocaleString('en')
}

/** How often each byte that was read from the store was served. @param {number} served @param {number} read */
export function formatFactor(served, read) {
  const factor = served / read
  return factor < 10 ? factor.toFixed(1) : formatCount(Math.round(factor))
}

/** 3725 → `1 h 2 min`. @param {number} seconds */
export function formatAge(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 60) return `${minutes} min`
  const hours = Math.floor(minutes / 60)
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`
}
