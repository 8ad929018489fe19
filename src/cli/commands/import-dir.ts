/** `import dir`: archives a directory while it streams it to the server, which makes an image of it. */
import { openDirectory } from '../api/directory-source.ts'
import { importArchive } from '../api/import.ts'
import type { ImportOptions } from '../import-runner.ts'
import { runImport } from '../import-runner.ts'
import type { Invocation } from '../invocation.ts'

export async function runImportDir(
  invocation: Invocation,
  directory: string,
  ref: string,
  options: ImportOptions,
): Promise<void> {
  const { client, context, signal } = invocation
  await runImport(invocation, ref, options, async (parsed, progress) => {
    await using archive = await openDirectory(directory, context.env, signal)
    return await importArchive(client, parsed, { format: 'tar' }, archive, progress)
  })
}
