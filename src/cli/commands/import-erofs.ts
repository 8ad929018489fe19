/** `import erofs`: streams an image to the server and says what of it was new. */
import { importErofs } from '../api/import.ts'
import type { ImportOptions } from '../import-runner.ts'
import { runImport } from '../import-runner.ts'
import type { Invocation } from '../invocation.ts'

export interface ImportErofsOptions extends ImportOptions {
  readonly device?: readonly string[]
}

export async function runImportErofs(
  invocation: Invocation,
  file: string,
  ref: string,
  options: ImportErofsOptions,
): Promise<void> {
  const files = { image: file, devices: options.device ?? [] }
  await runImport(invocation, ref, options, (parsed, progress) =>
    importErofs(invocation.client, parsed, files, progress),
  )
}
