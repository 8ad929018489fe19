/**
 * Composition: configuration, threads, front ends, metrics and lifecycle of a server. What a byte range
 * means is images' business, how it is cached is cache's; here they meet the network.
 */
export { runServer } from './server.ts'
export type { ReadyInfo, RunServerOptions, ServerSummary } from './run-options.ts'
export { VERSION } from './version.ts'
