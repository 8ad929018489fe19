/**
 * The routes that take bytes: importing an image and storing a blob. Admission comes before the body is
 * read, so a full store refuses without receiving anything; a body that fails gives its space back.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { Type } from 'typebox'

import type { Ref } from '../../../core/index.ts'
import {
  AppError,
  formatRef,
  fromErrorRecord,
  isAppError,
  isDomain,
  parseDigest,
} from '../../../core/index.ts'
import type { Platform, WantedImage } from '../../../oci/index.ts'
import type { ImportFormat } from '../../planes.ts'
import { IMPORT_FORMATS } from '../../planes.ts'
import type { Preconditions } from '../conditional.ts'
import { checkPreconditions, imageEtag, preconditionsOf } from '../conditional.ts'
import type { App, HttpContext } from '../context.ts'
import { operation } from '../context.ts'
import { INNER_ROUTES, parseImagePath, pathOf } from '../data-target.ts'
import { sendContinue } from '../expect-continue.ts'
import { withoutIdleTimeout } from '../idle-timeout.ts'
import { MAX_IMPORT_DEVICES } from '../limits.ts'
import type { Job } from '../schemas.ts'
import { BlobStored, ImportReport, Job as JobSchema } from '../schemas.ts'
import { announcedSize, checkBodyIsWhole, receiveBody } from '../upload.ts'
import { parseWait, waitForJob } from '../job-wait.ts'

const ImportQuery = Type.Object({
  format: Type.Optional(
    Type.String({
      description:
        'erofs: a whole EROFS image (the default); tar: an archive, plain or of gzip, zstd or xz, whose tree becomes an image; oci-archive, docker-archive: an OCI layout as a tar archive, or what docker saved',
    }),
  ),
  tag: Type.Optional(
    Type.String({
      description: 'which image of an oci-archive or docker-archive, if it has several',
    }),
  ),
  platform: Type.Optional(
    Type.String({
      description:
        'OS/ARCHITECTURE[/VARIANT] of an image for several; the default is that of the server',
    }),
  ),
  device: Type.Optional(
    Type.Union([Type.String(), Type.Array(Type.String(), { maxItems: MAX_IMPORT_DEVICES })], {
      description:
        'digests of the extra devices in slot order, uploaded before as blobs of the domain',
    }),
  ),
  wait: Type.Optional(
    Type.String({
      description: 'true, or a duration such as 30s: answer when the import has ended',
    }),
  ),
})
const BlobQuery = Type.Object({
  digest: Type.Optional(Type.String({ description: 'refuse the body unless it has this digest' })),
  park: Type.Optional(
    Type.Boolean({
      description: 'keep it for an hour as a device of a coming import, not as a blob',
    }),
  ),
})
const UPLOAD_ERRORS = [
  'ERR_IMPORT_EMPTY',
  'ERR_STORE_FULL',
  'ERR_STORE_WRITE_FAILED',
  'ERR_UPLOADS_EXHAUSTED',
  'ERR_HTTP_BODY_TOO_LARGE',
  'ERR_HTTP_BODY_TIMEOUT',
  'ERR_HTTP_UPLOAD_ABORTED',
  'ERR_HTTP_MEDIA_TYPE_UNSUPPORTED',
]

export function registerUploadRoutes(app: App, context: HttpContext): void {
  // Every body is a stream here, whatever it says it is: the handler reads it after admission.
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', (_request, _payload, done) => done(null))
  app.route({
    ...operation(
      'importImage',
      {
        description:
          'The body is the image (device 0), or the archive. Answers 202 with the job, or with ?wait= 201 with the report.',
        responses: { 201: ImportReport, 202: JobSchema },
        errors: [
          'ERR_REF_INVALID',
          'ERR_HTTP_FORMAT_UNSUPPORTED',
          'ERR_IMPORT_DEVICES',
          'ERR_HTTP_PRECONDITION_FAILED',
          ...UPLOAD_ERRORS,
        ],
        pathParams: { ref: 'DOMAIN/NAME[:TAG] that the image gets' },
        conditions: 'change',
        upload: 'application/octet-stream',
      },
      INNER_ROUTES.image,
    ),
    schema: { querystring: ImportQuery },
    handler: async (request, reply) => {
      const ref = parseImagePath(pathOf(request.originalUrl))
      if (ref.digest !== undefined) throw importByDigest(formatRef(ref))
      const { format = 'erofs', device = [], wait, tag, platform } = request.query
      if (!isImportFormat(format)) throw unsupportedFormat(format)
      if (format !== 'erofs' && device.length > 0) throw devicesOfArchive(format)
      const wanted = wantedImage(format, tag, platform)
      const devices = (Array.isArray(device) ? device : [device]).map((text) => parseDigest(text))
      const waitMs = parseWait(wait)
      const preconditions = preconditionsOf(request.headers)
      await checkBeforeBody(context, ref, preconditions)
      const job = await withUpload(context, request, reply, ref.domain, (id) =>
        context.control.startImport(ref.domain, id, {
          ref,
          format,
          devices,
          wanted,
          preconditions,
        }),
      )
      void reply.header('Location', `/v1/jobs/${job.id}`)
      return waitMs === 0 ? reply.code(202).send(job) : answerWhenDone(context, reply, job, waitMs)
    },
  })
  app.route({
    ...operation('uploadBlob', {
      description: 'Answers 201, or 200 when the domain held the blob already.',
      responses: { 200: BlobStored, 201: BlobStored },
      errors: ['ERR_REF_INVALID', 'ERR_DIGEST_INVALID', ...UPLOAD_ERRORS],
      pathParams: { domain: 'share domain; it comes into being with its first blob' },
      upload: 'application/octet-stream',
    }),
    schema: { querystring: BlobQuery, params: Type.Object({ domain: Type.String() }) },
    handler: async (request, reply) => {
      const { domain } = request.params
      if (!isDomain(domain)) throw new AppError('ERR_REF_INVALID', `'${domain}' is not a domain`)
      const { digest } = request.query
      const expected = digest === undefined ? {} : { expected: parseDigest(digest) }
      const options = { park: request.query.park === true, ...expected }
      const blob = await withUpload(context, request, reply, domain, (id) =>
        // Hashing takes its time, and waits for a turn: nothing moves on the connection meanwhile.
        withoutIdleTimeout(request.raw.socket, () =>
          context.control.finishBlob(domain, id, options),
        ),
      )
      void reply.header('Location', `/v1/blobs/${domain}/${blob.digest}`)
      return reply.code(blob.created ? 201 : 200).send(blob)
    },
  })
}

/**
 * Refuses what would be refused behind the body. The preconditions are evaluated again when the tag is set, which
 * decides: what cannot be told now is left to that.
 * @throws ERR_HTTP_PRECONDITION_FAILED
 */
async function checkBeforeBody(
  { control }: HttpContext,
  ref: Ref,
  preconditions: Preconditions,
): Promise<void> {
  if (Object.values(preconditions).every((value) => value === undefined)) return
  let etag: string | undefined
  try {
    etag = imageEtag((await control.image(ref)).digest)
  } catch (error) {
    if (!isAppError(error) || error.code !== 'ERR_IMAGE_NOT_FOUND') return
  }
  checkPreconditions(preconditions, etag)
}

/** Admits and receives the body, then hands the upload over; until then a failure gives its space back. */
async function withUpload<T>(
  context: HttpContext,
  request: FastifyRequest,
  reply: FastifyReply,
  domain: string,
  use: (uploadId: string) => Promise<T>,
): Promise<T> {
  checkBodyIsWhole(request.raw)
  const announced = announcedSize(request.raw)
  if (announced === 0) throw emptyBody()
  const upload = await context.control.beginUpload(domain, announced)
  try {
    sendContinue(request.raw, reply.raw)
    const received = await receiveBody(request.raw, {
      path: upload.path,
      limitBytes: upload.limitBytes,
      progressPeriodMs: context.timeouts.uploadPeriodMs,
    })
    if (received === 0) throw emptyBody()
  } catch (error) {
    await context.control.abortUpload(upload.id)
    throw error
  }
  return use(upload.id)
}

async function answerWhenDone(
  context: HttpContext,
  reply: FastifyReply,
  started: Job,
  waitMs: number,
): Promise<FastifyReply> {
  const job = await waitForJob(context, reply, started, waitMs)
  if (job.error !== undefined) throw fromErrorRecord(job.error)
  if (job.report === undefined) return reply.code(202).send(job)
  return reply.code(201).header('Location', `/v1/images/${job.report.ref}`).send(job.report)
}

/** No image and no blob is empty: most often a client has lost its file. */
function emptyBody(): AppError {
  return new AppError(
    'ERR_IMPORT_EMPTY',
    'the request has no body, and the body is what is stored',
    {
      hint: 'with curl: -X POST -T FILE',
    },
  )
}

function unsupportedFormat(format: string): AppError {
  return new AppError('ERR_HTTP_FORMAT_UNSUPPORTED', `format '${format}' is not supported`, {
    hint: `formats are ${IMPORT_FORMATS.join(' and ')}`,
  })
}

function isImportFormat(format: string): format is ImportFormat {
  return (IMPORT_FORMATS as readonly string[]).includes(format)
}

/** @throws ERR_HTTP_REQUEST_INVALID */
function wantedImage(format: ImportFormat, tag?: string, platform?: string): WantedImage {
  if (tag === undefined && platform === undefined) return {}
  if (format === 'erofs' || format === 'tar') {
    throw new AppError(
      'ERR_HTTP_REQUEST_INVALID',
      `tag and platform choose an image of an archive of several, format ${format} has one`,
    )
  }
  return {
    ...(tag === undefined ? {} : { tag }),
    ...(platform === undefined ? {} : { platform: parsePlatform(platform) }),
  }
}

function parsePlatform(text: string): Platform {
  const match = /^([a-z0-9]+)\/([a-z0-9_]+)(?:\/([a-z0-9.]+))?$/.exec(text)
  const [, os, architecture, variant] = match ?? []
  if (os === undefined || architecture === undefined) {
    throw new AppError(
      'ERR_HTTP_REQUEST_INVALID',
      `platform '${text}' is not OS/ARCHITECTURE[/VARIANT], such as linux/arm64`,
    )
  }
  return { os, architecture, ...(variant === undefined ? {} : { variant }) }
}

function devicesOfArchive(format: string): AppError {
  return new AppError(
    'ERR_IMPORT_DEVICES',
    `an import of the format ${format} has no extra devices`,
  )
}

function importByDigest(ref: string): AppError {
  return new AppError('ERR_REF_INVALID', `'${ref}' names a digest, an import needs a tag`, {
    hint: 'the digest of an image follows from its bytes: import to DOMAIN/NAME:TAG',
  })
}
