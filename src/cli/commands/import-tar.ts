/** `import tar`: streams an archive to the server, which makes an image of its tree. */
import { openLocalFile, streamSource } from '../api/body-source.ts'
import { importArchive } from '../api/import.ts'
import type { ImportOptions } from '../import-runner.ts'
import { runImport } from '../import-runner.ts'
import type { Invocation } from '../invocation.ts'

/** @param file `-` is standard input */
export async function runImportTar(
  invocation: Invocation,
  file: string,
  ref: string,
  options: ImportOptions,
): Promise<void> {
  await runImport(invocation, ref, options, async (parsed, progress) => {
    await using archive =
      file === '-'
        ? streamSource('standard input', invocation.context.stdin)
        : await openLocalFile(file)
    return await importArchive(invocation.client, parsed, { format: 'tar' }, archive, progress)
  })
}
