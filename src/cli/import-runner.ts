/** What all imports have in common: a reference, progress on stderr, and a report at the end. */
import type { Ref } from '../core/index.ts'
import { parseRef } from '../core/index.ts'
import type { ImportReport } from '../server/http/schemas.ts'
import type { Invocation } from './invocation.ts'
import { renderReport } from './render/import-report.ts'
import { parseProgressMode, Progress } from './render/progress.ts'

export interface ImportOptions {
  readonly progress: string
}

/** @param perform sends what is imported and follows the job to its end */
export async function runImport(
  invocation: Invocation,
  refText: string,
  options: ImportOptions,
  perform: (ref: Ref, progress: Progress) => Promise<ImportReport>,
): Promise<void> {
  const { context, output } = invocation
  const ref = parseRef(refText)
  const mode = output.quiet ? 'none' : parseProgressMode(options.progress)
  const progress = new Progress({ mode, stream: context.stderr })
  let report: ImportReport
  try {
    report = await perform(ref, progress)
  } catch (error) {
    progress.clear()
    if (invocation.signal.aborted) output.say('cancelled')
    throw error
  }
  if (invocation.json) return output.printJson(report)
  await output.print(renderReport(report, output.style))
}
