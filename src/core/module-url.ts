/**
 * Worker threads and child processes are started by URL. From a checkout the modules are `.ts`, in the
 * built package `.js`; the importing module's own suffix tells which.
 */
export function siblingModule(importMetaUrl: string, path: string): URL {
  const suffix = importMetaUrl.endsWith('.ts') ? '.ts' : '.js'
  return new URL(path + suffix, importMetaUrl)
}
