/**
 * The shapes of every JSON body of the API, as TypeBox schemas: the types, the validation and the OpenAPI
 * document come from here. Sizes are integers in bytes and end in `Bytes`; times are RFC 3339 UTC.
 */
import { Type } from 'typebox'
import type { Static } from 'typebox'

const Bytes = (description: string) => Type.Integer({ minimum: 0, description })
const DigestString = Type.String({ pattern: '^sha256:[0-9a-f]{64}$' })
const Time = Type.String({ description: 'RFC 3339, UTC' })

export const Problem = Type.Object(
  {
    type: Type.String({ description: 'link to the error in the documentation' }),
    title: Type.String(),
    status: Type.Integer(),
    code: Type.String({ description: 'stable error code, ERR_…' }),
    detail: Type.String(),
    hint: Type.Optional(Type.String()),
    requestId: Type.String(),
  },
  { $id: 'Problem', description: 'RFC 9457 problem details' },
)

export const Device = Type.Object({
  sizeBytes: Bytes('size of the device'),
  digest: DigestString,
  extents: Type.Integer({ minimum: 0, description: 'entries of its address map' }),
})

/** How an image's bytes are kept and shared. */
export const ImageSizes = Type.Object({
  logicalBytes: Bytes('what the files of the image say'),
  storedBytes: Bytes('bytes of blobs that the image refers to'),
  uniqueBytes: Bytes('of those, referred to by this image alone'),
  sharedBytes: Bytes('of those, referred to by other images as well'),
  residentBytes: Bytes('in memory now, whole frames'),
})

export const Image = Type.Object(
  {
    ref: Type.String({ description: 'DOMAIN/NAME:TAG, or DOMAIN/NAME@DIGEST' }),
    domain: Type.String(),
    name: Type.String(),
    tag: Type.Optional(Type.String()),
    digest: DigestString,
    logicalBytes: Bytes('what the files of the image say; all devices where it cannot be parsed'),
    sizeBytes: Bytes('size of the flattened view: devices without a unified address are not in it'),
    devices: Type.Array(Device),
    origin: Type.Record(Type.String(), Type.Unknown()),
    oci: Type.Optional(
      Type.Record(Type.String(), Type.Unknown(), {
        description:
          'of an OCI image: platform, and config as in its configuration (Entrypoint, Env, User, Labels, …)',
      }),
    ),
    filesystem: Type.Union([Type.Literal('erofs'), Type.Literal('unknown')], {
      description: 'unknown: the bytes could not be parsed and are served whole',
    }),
    inodes: Type.Integer({ minimum: 0 }),
    blockSizeBytes: Type.Optional(Type.Integer()),
    features: Type.Optional(Type.Array(Type.String())),
    updatedAt: Type.Optional(Time),
    nbdExport: Type.String({ description: 'export name by digest' }),
  },
  { $id: 'Image' },
)

export const ImageList = Type.Object({
  images: Type.Array(Image),
  nextCursor: Type.Optional(Type.String()),
})

export const DiskUsage = Type.Object({
  images: Type.Array(
    Type.Intersect([Type.Object({ ref: Type.String(), digest: DigestString }), ImageSizes]),
  ),
  totals: Type.Object({
    logicalBytes: Bytes('sum over images'),
    storedBytes: Bytes('blobs on disk, each once'),
    residentBytes: Bytes('in memory now'),
    images: Type.Integer(),
    blobs: Type.Integer(),
  }),
})

export const ImportReport = Type.Object({
  ref: Type.String(),
  digest: DigestString,
  sizeBytes: Bytes('bytes of all devices'),
  logicalBytes: Bytes('what the files say'),
  newBytes: Bytes('bytes added to the store'),
  sharedBytes: Bytes('bytes found in the domain already'),
  zeroBytes: Bytes('bytes that are zero and not stored'),
  sharedWith: Type.Array(Type.Object({ ref: Type.String(), bytes: Bytes('shared with it') })),
  filesystem: Type.Union([Type.Literal('erofs'), Type.Literal('unknown')]),
  inodes: Type.Integer(),
  notes: Type.Array(Type.String(), {
    description: 'what the user should know, e.g. why an image was not parsed',
  }),
})

export const Job = Type.Object(
  {
    id: Type.String(),
    kind: Type.Literal('import'),
    ref: Type.String(),
    state: Type.Union([
      Type.Literal('queued'),
      Type.Literal('running'),
      Type.Literal('done'),
      Type.Literal('failed'),
      Type.Literal('cancelled'),
    ]),
    phase: Type.String({
      description:
        'waiting, starting, reading, writing, verifying, publishing; at the end the state',
    }),
    doneBytes: Bytes('of totalBytes'),
    totalBytes: Bytes('0 while unknown'),
    createdAt: Time,
    finishedAt: Type.Optional(Time),
    report: Type.Optional(ImportReport),
    error: Type.Optional(
      Type.Object({
        code: Type.String(),
        message: Type.String(),
        hint: Type.Optional(Type.String()),
      }),
    ),
  },
  { $id: 'Job' },
)

export const JobList = Type.Object({ jobs: Type.Array(Job) })
export const DomainList = Type.Object({ domains: Type.Array(Type.String()) })
export const BlobStored = Type.Object({
  digest: DigestString,
  sizeBytes: Bytes('size of the blob'),
  created: Type.Boolean({ description: 'false: the domain held it already' }),
})
export const TagRequest = Type.Object(
  { from: Type.String({ description: 'DOMAIN/NAME[:TAG] or DOMAIN/NAME@sha256:HEX' }) },
  { additionalProperties: false },
)

export const SharingRow = Type.Object({
  ref: Type.String(),
  domain: Type.String(),
  digest: DigestString,
  touchedBytes: Bytes('valid bytes of the pages that reads of this image touched in the epoch'),
  addedBytes: Bytes('of those, brought into memory for this image first'),
  sharedHits: Type.Integer({
    description: 'pages that its reads found in memory, brought there for another image',
  }),
  residentBytes: Bytes('pages of this image in memory now, whole frames'),
})

export const Sharing = Type.Object(
  {
    epochStartedAt: Time,
    images: Type.Array(SharingRow),
    unattributedBytes: Bytes('brought in for no image yet: blob reads, prefetch'),
    broughtInBytes: Bytes('valid bytes ever brought in this epoch = Σ added + unattributed'),
    residentBytes: Bytes('whole frames in memory now'),
    capacityBytes: Bytes('size of the arena'),
  },
  { $id: 'Sharing' },
)

export const DomainStats = Type.Object({
  domain: Type.String(),
  hits: Type.Integer(),
  sharedHits: Type.Integer(),
  coalesced: Type.Integer(),
  misses: Type.Integer(),
  servedMemoryBytes: Bytes('served from memory'),
  servedStoreBytes: Bytes('served after a read of the store'),
  residentBytes: Bytes('in memory now'),
})

export const Client = Type.Object({
  id: Type.String(),
  kind: Type.Union([Type.Literal('nbd'), Type.Literal('http'), Type.Literal('ws')]),
  address: Type.String(),
  export: Type.Optional(Type.String()),
  connectedAt: Time,
  readBytes: Bytes('served to it'),
  requests: Type.Integer(),
})

export const Stats = Type.Object(
  {
    version: Type.String(),
    startedAt: Time,
    uptimeSeconds: Type.Number(),
    workers: Type.Integer(),
    cache: Type.Object({
      capacityBytes: Bytes('size of the arena'),
      residentBytes: Bytes('whole frames in memory'),
      pinnedBytes: Bytes('frames that replies hold now'),
      frameSizeBytes: Bytes('size of a frame'),
      evictions: Type.Integer(),
      fillErrors: Type.Integer(),
    }),
    domains: Type.Array(DomainStats),
    servedBytes: Bytes('NBD and HTTP payload'),
    storeReadBytes: Bytes('read from the store to fill pages'),
    nbdConnections: Type.Integer({ description: 'open now' }),
    httpConnections: Type.Integer({ description: 'open now, idle ones and event feeds included' }),
    httpRequests: Type.Integer({ description: 'answered since the start' }),
    uploads: Type.Object({
      receiving: Type.Integer({ description: 'bodies that are coming, or wait to be used' }),
      parked: Type.Integer({ description: 'devices that wait for the import of their image' }),
    }),
    images: Type.Integer(),
    clients: Type.Array(Client),
  },
  { $id: 'Stats' },
)

/** One entry of a directory listing. `name` is percent-encoded where its bytes are not UTF-8, and for `%`. */
export const DirectoryEntry = Type.Object({
  name: Type.String(),
  type: Type.String({ description: 'file, directory, symlink, char, block, fifo, socket' }),
  sizeBytes: Type.Optional(Bytes('size of the file')),
  mode: Type.Optional(Type.String({ description: 'octal, e.g. 0755' })),
})
export const DirectoryListing = Type.Object({
  path: Type.String(),
  entries: Type.Array(DirectoryEntry),
  nextCursor: Type.Optional(Type.String()),
})
export const FileStat = Type.Object({
  path: Type.String(),
  type: Type.String(),
  sizeBytes: Bytes('size'),
  mode: Type.String(),
  uid: Type.Integer(),
  gid: Type.Integer(),
  nlink: Type.Integer(),
  mtime: Time,
  mtimeNanoseconds: Type.String({ description: 'nanoseconds since 1970 as a decimal string' }),
  inode: Type.String(),
  target: Type.Optional(Type.String({ description: 'of a symlink, percent-encoded like names' })),
  rdev: Type.Optional(Type.Tuple([Type.Integer(), Type.Integer()])),
  xattrs: Type.Record(Type.String(), Type.String(), { description: 'values in hex' }),
  etag: Type.Optional(Type.String()),
})

export type Problem = Static<typeof Problem>
export type Image = Static<typeof Image>
export type ImageList = Static<typeof ImageList>
export type ImageSizes = Static<typeof ImageSizes>
export type DiskUsage = Static<typeof DiskUsage>
export type ImportReport = Static<typeof ImportReport>
export type Job = Static<typeof Job>
export type Sharing = Static<typeof Sharing>
export type SharingRow = Static<typeof SharingRow>
export type DomainStats = Static<typeof DomainStats>
export type Client = Static<typeof Client>
export type Stats = Static<typeof Stats>
export type DirectoryEntry = Static<typeof DirectoryEntry>
export type DirectoryListing = Static<typeof DirectoryListing>
export type FileStat = Static<typeof FileStat>
