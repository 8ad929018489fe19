/**
 * Finds what a source file refers to: static and dynamic imports, re-exports, and modules that are started by
 * URL as threads or processes. Reads text; knows nothing of which reference is allowed.
 */
import { globSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

export const ROOT = fileURLToPath(new URL('../..', import.meta.url))

export interface SourceImport {
  /** Path from the project's root. */
  readonly from: string
  readonly line: number
  /** As written: `./x.ts`, `node:fs`, `fastify`. */
  readonly specifier: string
  /** Path from the project's root; undefined for a package or a Node module. */
  readonly target: string | undefined
  /** Erased before the program runs. */
  readonly typeOnly: boolean
  /** Started by URL, as a thread or process. */
  readonly byUrl: boolean
}

const COMMENT = /\/\*[\s\S]*?\*\/|(?<=^|\s)\/\/[^\n]*/g
const STATIC =
  /(?:^|\n)\s*(?:import|export)\s+(type\s)?(?:[\w*{}\s,$]+?\sfrom\s*)?(['"])([^'"\n]+)\2/g
const DYNAMIC = /\bimport\(\s*(['"])([^'"\n]+)\1/g
const BY_URL =
  /\b(?:siblingModule\(\s*import\.meta\.url\s*,\s*(['"])([^'"\n]+)\1|new URL\(\s*(['"])([^'"\n]+)\3\s*,\s*import\.meta\.url)/g

export function sourceFiles(folder: string): string[] {
  return globSync(`${folder}/**/*.ts`, {
    cwd: ROOT,
    exclude: (name) => name === 'node_modules' || name === 'dist' || name === 'static',
  }).toSorted()
}

export function importsOf(file: string): SourceImport[] {
  return importsIn(file, readFileSync(join(ROOT, file), 'utf8'))
}

export function importsIn(file: string, text: string): SourceImport[] {
  // Comments are blanked, not removed: line numbers stay.
  const code = text.replace(COMMENT, (comment) => comment.replace(/[^\n]/g, ' '))
  const found: SourceImport[] = []
  const add = (index: number, specifier: string, typeOnly: boolean, byUrl = false): void => {
    const line = code.slice(0, index).split('\n').length
    const target = targetOf(file, specifier, byUrl)
    found.push({ from: file, line, specifier, target, typeOnly, byUrl })
  }
  for (const match of code.matchAll(STATIC)) {
    const start = match.index + match[0].search(/\S/)
    add(start, match[3] ?? '', match[1] !== undefined)
  }
  for (const match of code.matchAll(DYNAMIC)) add(match.index, match[2] ?? '', false)
  for (const match of code.matchAll(BY_URL)) {
    // siblingModule adds the suffix that the importing file has.
    const specifier = match[2] === undefined ? (match[4] ?? '') : `${match[2]}.ts`
    add(match.index, specifier, false, true)
  }
  return found
}

function targetOf(file: string, specifier: string, byUrl: boolean): string | undefined {
  if (!byUrl && !specifier.startsWith('.')) return undefined
  return relative(ROOT, join(ROOT, dirname(file), specifier))
}

/** `src/cache/x.ts` → `cache`; undefined outside of src. */
export function moduleOf(path: string): string | undefined {
  return /^src\/([^/]+)\//.exec(path)?.[1]
}
