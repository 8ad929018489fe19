/**
 * Blobs, the chunk index, address maps, manifests and refs over a storage engine (the embedded default:
 * a local directory). What they mean together, images, is src/images; who may read them is src/server.
 */
export { BlobIndex } from './blob-index.ts'
export type { ChunkEntry } from './blob-index.ts'
export type { BlobIndexHeader } from './blob-index-codec.ts'
export { BlobStore } from './blob-store.ts'
export type { BlobHead, PutBlobOptions } from './blob-store.ts'
export { BlobWriter } from './blob-writer.ts'
export type { CompleteBlob, PendingChunk, PreparedBlob, StoredBlob } from './blob-writer.ts'
export { ChunkIndex } from './chunk-index.ts'
export type { ChunkIndexStats, ChunkQuestion } from './chunk-index.ts'
export { MAX_CHUNK_BYTES } from './chunk-record.ts'
export type { ChunkRecord } from './chunk-record.ts'
export type { FoundChunk } from './chunk-run.ts'
export { DomainStore } from './domain-store.ts'
export { STORE_ERRORS, isDamage, writeError } from './errors.ts'
export type { StoreErrorCode } from './errors.ts'
export { DIGEST_PAGE_BYTES, STORE_BLOCK_BYTES } from './layout.ts'
export { LocalEngine } from './local-engine.ts'
export { LocalPageSource } from './local-page-source.ts'
export type { LocalPageSourceOptions } from './local-page-source.ts'
export { MapBuilder } from './map-builder.ts'
export type { ResolvedSource } from './map-builder.ts'
export { EXTENT, EXTENT_WORDS, decodeMap, encodeMap } from './map-codec.ts'
export type { DeviceMap, MapBlob, MapFacts } from './map-codec.ts'
export { MAX_MANIFEST_BYTES, ManifestStore } from './manifest-store.ts'
export type { PreparedManifest } from './manifest-store.ts'
export { MapStore } from './map-store.ts'
export type { PreparedMap, StoredMap } from './map-store.ts'
export { RefStore } from './ref-store.ts'
export type { ListedRef, RefPage, RefRecord, RefTarget } from './ref-store.ts'
export { StagedUpload } from './staged-upload.ts'
export type {
  ByteRange,
  ObjectHead,
  PreparedObject,
  Publishable,
  StagedFile,
  StorageEngine,
  VersionedBytes,
} from './storage-engine.ts'
export { Store, openStore } from './store.ts'
export type { StoreOptions } from './store.ts'
export type { StoreLogger } from './store-logger.ts'
