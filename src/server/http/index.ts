/**
 * The HTTP front end: routes, ranges, errors, the live feed and the API's description. It sees images and
 * the server through the two planes only; threads, real planes and lifecycle are composed elsewhere.
 */
export { buildApp } from './app.ts'
export type { App, AppDeps } from './context.ts'
export {
  DURATION_BUCKETS_SECONDS,
  HTTP_COUNTER_COLUMNS,
  readHttpCounters,
  STATUS_CLASSES,
} from './counters.ts'
export type { HttpSample, OperationSample } from './counters.ts'
export { HTTP_ERRORS } from './errors.ts'
export type { HttpErrorCode } from './errors.ts'
export { controlFeed } from './live-state.ts'
export type { EventFeed, LiveImage, LiveState } from './live-state.ts'
export { problemResponse } from './problem.ts'
export * from './schemas.ts'
