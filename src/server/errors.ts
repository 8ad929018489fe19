/** Error codes of the composition: front ends, uploads, jobs and lifecycle. */
import { defineErrors } from '../core/index.ts'

export const SERVER_ERRORS = defineErrors({
  ERR_SERVER_BUSY: {
    http: 503,
    nbd: 'EIO',
    exit: 1,
    doc: 'The server has more work under way than it allows; try again later.',
  },
  ERR_SERVER_LISTEN: {
    exit: 1,
    doc: 'The server could not listen on an address: it is taken, or not of this machine.',
  },
  ERR_SERVER_DRAIN: {
    exit: 1,
    doc: 'The server was told to stop, and something was not finished when its time to drain was over; it was cut.',
  },
  ERR_SERVER_THREAD: {
    exit: 1,
    doc: 'A thread of the server ended unexpectedly; the process ends so that a supervisor restarts it.',
  },
  ERR_IMAGE_NOT_FOUND: {
    http: 404,
    nbd: 'EINVAL',
    exit: 3,
    doc: 'No image has this name or digest.',
  },
  ERR_BLOB_NOT_FOUND: {
    http: 404,
    nbd: 'EINVAL',
    exit: 3,
    doc: 'No blob of this domain has this digest.',
  },
  ERR_EXPORT_NOT_FOUND: { http: 404, nbd: 'EINVAL', exit: 3, doc: 'No export has this name.' },
  ERR_REF_CONFLICT: {
    http: 409,
    exit: 4,
    doc: 'The tag was changed by someone else meanwhile; look at it and try again.',
  },
  ERR_JOB_NOT_FOUND: {
    http: 404,
    exit: 3,
    doc: 'No job has this id; jobs are forgotten some time after their end.',
  },
  ERR_JOBS_EXHAUSTED: {
    http: 503,
    exit: 1,
    doc: 'Too many imports are waiting; try again when some have ended.',
  },
  ERR_JOB_CANCELLED: {
    http: 409,
    exit: 1,
    doc: 'The import was cancelled; nothing of it is kept.',
  },
  ERR_UPLOAD_NOT_FOUND: {
    http: 404,
    exit: 3,
    doc: 'The upload is not known: it was aborted, used, or its time ran out.',
  },
  ERR_UPLOADS_EXHAUSTED: {
    http: 503,
    exit: 1,
    doc: 'Too many uploads are under way; try again when some have ended.',
  },
  ERR_IMPORT_PROCESS: {
    http: 500,
    exit: 1,
    doc: 'The import process ended without a result; its log says why.',
  },
  ERR_MAPS_EXHAUSTED: {
    http: 503,
    nbd: 'ENOMEM',
    exit: 1,
    doc: 'The address maps of the images in use fill the memory that is set aside for maps; use a larger cache or fewer images at once.',
  },
  ERR_METADATA_LIMIT: {
    http: 503,
    exit: 1,
    doc: 'A table of the server is full (domains or images of this run); restart it or use fewer.',
  },
})
