/** Every limit of the HTTP front end in one place, each with its reason. Nothing else belongs here. */
import { KIB, MIB } from '../../core/index.ts'

/** The limits that tests shorten. All in ms. */
export interface HttpTimeouts {
  readonly connectionMs: number
  readonly headersMs: number
  readonly jsonBodyMs: number
  readonly uploadPeriodMs: number
}

/** containers/storage asks for up to 1,024 missing chunks in one Range header (`maxNumberMissingChunks`). */
export const MAX_RANGES = 1024
/** 1,024 ranges take about 20 KiB of header; node's default of 16 KiB would answer 431, which is fatal there. */
export const MAX_HEADER_BYTES = 64 * KIB
/** A sha512 digest is 135 characters, a file's path inside an image up to 4,096 bytes, each percent-encoded. */
export const MAX_PARAM_LENGTH = 16 * KIB
/** Bodies up to this size are copied and leave in one write: cheaper than pinning and a vectored write. */
export const SMALL_BODY_BYTES = 16 * KIB
/** Small parts of a multipart body are gathered in one buffer of this size before they are written. */
export const GATHER_BYTES = 64 * KIB
/**
 * A cold read that takes longer than this has its header sent ahead of the data: some clients give up when
 * no header has come after 3 s (SOCI). Before that a failure can still be told as 502.
 */
export const HEADER_DELAY_MS = 500
/** Requests of one connection that may wait behind another answer; deeper pipelines are answered with 503. */
export const MAX_PIPELINED = 64
/** Go and reqwest keep idle connections for about 90 s; closing earlier than they do resets requests. */
export const KEEP_ALIVE_TIMEOUT_MS = 125_000
/** A connection on which nothing moves for so long is closed: a stalled reader holds pinned frames. */
const CONNECTION_TIMEOUT_MS = 60_000
/** From the first byte of a request to the end of its header. */
const HEADERS_TIMEOUT_MS = 30_000
/** The whole of a request: an upload of hundreds of GiB takes hours, and slow ones are ended by their rate. */
export const REQUEST_TIMEOUT_MS = 24 * 3600 * 1000
/** How often connections are looked at for the limit above; node's default of 30 s would double it. */
export const TIMEOUT_CHECK_MS = 2_000
/** JSON bodies are small: a tag. */
export const MAX_JSON_BODY_BYTES = 64 * KIB
const JSON_BODY_TIMEOUT_MS = 30_000
/** Between the socket of an upload and its file: what waits for the file and what is being written, together. */
export const UPLOAD_BUFFER_BYTES = MIB
/**
 * What a piece of a body takes in memory besides its bytes: 200 to 224 measured. A client chooses the size of the
 * pieces, down to one byte.
 */
export const PIECE_OVERHEAD_BYTES = 256
/** An upload has to move at least this many bytes in each period. */
export const UPLOAD_MIN_PROGRESS_BYTES = 64 * KIB
const UPLOAD_PROGRESS_PERIOD_MS = 30_000
/** After a request was refused before its body was read: how long the body is discarded, so that the client sees the answer instead of a reset. */
export const LINGER_MS = 1_000
/** Long polls (`?wait=`) of one request. */
export const MAX_WAIT_MS = 10 * 60_000
/** One page of a list or directory. */
export const DEFAULT_PAGE = 100
export const MAX_PAGE = 1_000
/** Devices of one image: EROFS on Linux mounts at most 16 as separate devices, the format allows more. */
export const MAX_IMPORT_DEVICES = 256
/** WebSocket clients of one worker: each costs one JSON message a second. */
export const MAX_EVENT_CLIENTS = 64
/** `{"type":"resync"}` is all that a client has to say. */
export const MAX_EVENT_MESSAGE_BYTES = 1_024
export const EVENT_INTERVAL_MS = 1_000
/** A client that has this much unsent gets no deltas; a fresh snapshot follows when it has caught up. */
export const EVENT_BACKLOG_BYTES = 256 * KIB
export const EVENT_PING_MS = 30_000
/** Between saying goodbye to a client of the feed and cutting its connection. */
export const EVENT_CLOSE_MS = 500
/** Rows of the live feed: the busiest images and clients. The API has the full lists. */
export const MAX_EVENT_IMAGES = 200
export const MAX_EVENT_CLIENT_ROWS = 100

export const HTTP_TIMEOUTS: HttpTimeouts = {
  connectionMs: CONNECTION_TIMEOUT_MS,
  headersMs: HEADERS_TIMEOUT_MS,
  jsonBodyMs: JSON_BODY_TIMEOUT_MS,
  uploadPeriodMs: UPLOAD_PROGRESS_PERIOD_MS,
}
