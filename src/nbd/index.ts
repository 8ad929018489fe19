/**
 * nbd-server-ts: a read-only NBD server (fixed newstyle, simple and structured replies) for anything that can
 * hand out bytes. It knows nothing of images, files or caches, and has no dependencies.
 */
export * from './counters.ts'
export * from './errors.ts'
export type {
  ConnectionContext,
  ExportInfo,
  ExportProvider,
  NbdExport,
  ReadReply,
  ReplyPiece,
} from './export.ts'
export { NBD_DEFAULT_LIMITS } from './limits.ts'
export type { NbdLimits } from './limits.ts'
export type { PollingOptions } from './polling.ts'
export * from './protocol.ts'
export * from './server.ts'
