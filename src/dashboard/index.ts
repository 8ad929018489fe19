/**
 * The web page as files: read once, served from memory. What the page shows comes over the API; this folder
 * knows nothing of the server but the names in `static/`.
 */
import { readFile } from 'node:fs/promises'

import { digestOf } from '../core/index.ts'

export interface DashboardFile {
  readonly contentType: string
  readonly body: Buffer
  /** Quoted and strong. */
  readonly etag: string
}

/** Every file of the page with its media type. Nothing that is not listed is served. */
const FILES: readonly (readonly [string, string])[] = [
  ['index.html', 'text/html; charset=utf-8'],
  ['style.css', 'text/css; charset=utf-8'],
  ['app.js', 'text/javascript; charset=utf-8'],
  ['feed.js', 'text/javascript; charset=utf-8'],
  ['format.js', 'text/javascript; charset=utf-8'],
  ['view.js', 'text/javascript; charset=utf-8'],
  ['icon.svg', 'image/svg+xml'],
]

/** The page's files by name. */
export async function loadDashboard(): Promise<ReadonlyMap<string, DashboardFile>> {
  const files = new Map<string, DashboardFile>()
  for (const [name, contentType] of FILES) {
    const body = await readFile(new URL(`./static/${name}`, import.meta.url))
    files.set(name, { contentType, body, etag: `"${digestOf(body)}"` })
  }
  return files
}
