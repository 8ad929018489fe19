/**
 * The closed list of what the API can do: the identity of a route in metrics, in OpenAPI and in the
 * documentation. Paths are templates in OpenAPI's notation.
 */
export interface Operation {
  readonly method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'DELETE'
  readonly path: string
  readonly tag: 'Images' | 'Data' | 'Blobs' | 'Sharing' | 'Jobs' | 'Server'
  readonly summary: string
}

function op(
  method: Operation['method'],
  path: string,
  tag: Operation['tag'],
  summary: string,
): Operation {
  return { method, path, tag, summary }
}

export const OPERATIONS = {
  listDomains: op('GET', '/v1/domains', 'Images', 'List the share domains'),
  listImages: op('GET', '/v1/images', 'Images', 'List images, one page at a time'),
  getImage: op('GET', '/v1/images/{ref}', 'Images', 'Show what a reference names now'),
  importImage: op('POST', '/v1/images/{ref}', 'Images', 'Import an image from the body'),
  tagImage: op(
    'PUT',
    '/v1/images/{ref}',
    'Images',
    'Make a tag name an image that is there already',
  ),
  deleteImage: op('DELETE', '/v1/images/{ref}', 'Images', 'Remove a tag'),
  getFile: op(
    'GET',
    '/v1/images/{ref}/-/files/{path}',
    'Data',
    "A file's bytes, a directory's entries, or metadata (?stat)",
  ),
  headFile: op('HEAD', '/v1/images/{ref}/-/files/{path}', 'Data', "A file's headers"),
  getRaw: op(
    'GET',
    '/v1/images/{ref}/-/raw',
    'Data',
    'The flattened view: the whole image as one disk',
  ),
  headRaw: op('HEAD', '/v1/images/{ref}/-/raw', 'Data', "The flattened view's headers"),
  getDevice: op(
    'GET',
    '/v1/images/{ref}/-/dev/{number}',
    'Data',
    'One device of an image; 0 holds the metadata',
  ),
  headDevice: op('HEAD', '/v1/images/{ref}/-/dev/{number}', 'Data', "A device's headers"),
  getBlob: op('GET', '/v1/blobs/{domain}/{digest}', 'Blobs', "A blob's bytes"),
  headBlob: op('HEAD', '/v1/blobs/{domain}/{digest}', 'Blobs', "A blob's headers"),
  uploadBlob: op('POST', '/v1/blobs/{domain}', 'Blobs', 'Store the body as a blob'),
  getSharing: op('GET', '/v1/sharing', 'Sharing', 'What each image touched and added to memory'),
  resetSharing: op('POST', '/v1/sharing/reset', 'Sharing', 'Start a new accounting epoch'),
  getDiskUsage: op(
    'GET',
    '/v1/du',
    'Sharing',
    'Logical, stored, unique, shared and resident bytes',
  ),
  getStats: op('GET', '/v1/stats', 'Server', 'Counters of cache, store and clients'),
  listJobs: op('GET', '/v1/jobs', 'Jobs', 'List imports: running, waiting and recent'),
  getJob: op('GET', '/v1/jobs/{id}', 'Jobs', 'Show a job, or wait for its end (?wait=)'),
  cancelJob: op('DELETE', '/v1/jobs/{id}', 'Jobs', 'Cancel a job'),
  getEvents: op(
    'GET',
    '/v1/events',
    'Server',
    'Live state over WebSocket: a snapshot, then changes each second',
  ),
  getMetrics: op('GET', '/metrics', 'Server', 'Metrics for Prometheus'),
  getLivez: op('GET', '/livez', 'Server', 'The process answers'),
  getReadyz: op('GET', '/readyz', 'Server', 'The server can serve (?verbose, ?exclude=)'),
  getHealthz: op('GET', '/healthz', 'Server', 'Another name of /readyz'),
  getOpenApi: op('GET', '/openapi.json', 'Server', 'This document'),
  getErrors: op('GET', '/errors', 'Server', 'What each error code means'),
  getOverview: op(
    'GET',
    '/',
    'Server',
    'The dashboard for browsers, a short status for everything else',
  ),
  getAsset: op('GET', '/dashboard/{file}', 'Server', 'A file of the dashboard'),
  unmatched: op('GET', '*', 'Server', 'Requests that match no route'),
} as const satisfies Record<string, Operation>

export type OperationId = keyof typeof OPERATIONS

export const OPERATION_IDS = Object.keys(OPERATIONS).filter(isOperationId)

function isOperationId(id: string): id is OperationId {
  return id in OPERATIONS
}
