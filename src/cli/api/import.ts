/**
 * One import from local files: devices as blobs first, then the image, then its job to the end. The
 * `import` command and the demo share it.
 */
import { AppError } from '../../core/index.ts'
import type { Digest, Ref } from '../../core/index.ts'
import type { ImportReport, Job } from '../../server/http/schemas.ts'
import type { Progress } from '../render/progress.ts'
import { ApiClient } from './client.ts'
import { imagePath } from './routes.ts'
import type { BodySource } from './body-source.ts'
import { openLocalFile } from './body-source.ts'
import { uploadBody } from './upload.ts'

/** Each poll is answered when the job ends or after this: often enough for a progress line. */
const POLL = '1s'
/** Cancelling may take as long as the server needs to answer, but Ctrl-C must not hang. */
const CANCEL_TIMEOUT_MS = 5000

export interface ImportFiles {
  readonly image: string
  /** In slot order. */
  readonly devices: readonly string[]
}

/**
 * @throws ERR_CLI_FILE_UNREADABLE, ERR_CLI_FILE_CHANGED, ERR_CLI_IMPORT_FAILED, the job's own code, and
 *   what ApiClient throws. When the client's signal is aborted the job is cancelled first.
 */
export async function importErofs(
  client: ApiClient,
  ref: Ref,
  files: ImportFiles,
  progress: Progress,
): Promise<ImportReport> {
  // a missing device is found before anything travels
  for (const path of [...files.devices, files.image]) await assertReadable(path)
  const devices: Digest[] = []
  for (const path of files.devices) {
    await using source = await openLocalFile(path)
    const blob = await send<{ digest: Digest }>(
      client,
      `/v1/blobs/${ref.domain}?park=true`,
      source,
      progress,
    )
    devices.push(blob.digest)
  }
  const parameters = new URLSearchParams({ format: 'erofs' })
  for (const digest of devices) parameters.append('device', digest)
  await using source = await openLocalFile(files.image)
  return await importBody(client, ref, parameters, source, progress)
}

/**
 * An archive, plain or compressed.
 *
 * @param parameters of the request: `format` and what goes with it
 * @throws as importErofs, and what the source fails with
 */
export async function importArchive(
  client: ApiClient,
  ref: Ref,
  parameters: Readonly<Record<string, string>>,
  archive: BodySource,
  progress: Progress,
): Promise<ImportReport> {
  return importBody(client, ref, new URLSearchParams(parameters), archive, progress)
}

async function importBody(
  client: ApiClient,
  ref: Ref,
  parameters: URLSearchParams,
  source: BodySource,
  progress: Progress,
): Promise<ImportReport> {
  const path = `${imagePath(ref)}?${parameters.toString()}`
  const job = await send<Job>(client, path, source, progress)
  return followJob(client, job, progress)
}

async function assertReadable(path: string): Promise<void> {
  await (await openLocalFile(path))[Symbol.asyncDispose]()
}

async function send<T>(
  client: ApiClient,
  path: string,
  source: BodySource,
  progress: Progress,
): Promise<T> {
  progress.start(`sending ${source.name}`, source.sizeBytes ?? 0)
  const answer = await uploadBody<T>(client, path, source, (bytes) => progress.update(bytes))
  progress.finish()
  return answer
}

async function followJob(client: ApiClient, first: Job, progress: Progress): Promise<ImportReport> {
  let job = first
  try {
    progress.start('importing', job.totalBytes)
    while (job.state === 'queued' || job.state === 'running') {
      job = await client.json<Job>(`/v1/jobs/${job.id}?wait=${POLL}`)
      if (job.state === 'running') progress.enter(job.phase)
      if (job.totalBytes > 0) progress.update(job.doneBytes, job.totalBytes)
    }
  } catch (error) {
    if (client.signal.aborted) await cancel(client, job.id)
    throw error
  }
  if (job.state === 'done' && job.report !== undefined) {
    progress.update(job.report.sizeBytes, job.report.sizeBytes)
    progress.finish()
    return job.report
  }
  const { code, message, hint } = job.error ?? {
    code: 'ERR_CLI_IMPORT_FAILED',
    message: `the import of ${job.ref} ended as ${job.state} without a report`,
    hint: `the server's log names job ${job.id}`,
  }
  throw new AppError(code, message, hint === undefined ? {} : { hint })
}

/** Best effort: the server gives unfinished jobs up by itself when it stops. */
async function cancel(client: ApiClient, id: string): Promise<void> {
  const canceller = new ApiClient(client.address, AbortSignal.timeout(CANCEL_TIMEOUT_MS))
  try {
    await canceller.exchange(`/v1/jobs/${id}`, { method: 'DELETE' })
  } catch {
    // the interruption is what the user asked for and gets
  }
}
