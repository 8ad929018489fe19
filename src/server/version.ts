/** What this build is called. The commit is set by whoever builds a release. */
import { readFileSync } from 'node:fs'

interface PackageFile {
  readonly version: string
}

const packageFile = JSON.parse(
  readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
) as PackageFile

export const VERSION = packageFile.version
export const COMMIT = process.env['COMMONPAGE_COMMIT'] ?? 'unknown'
