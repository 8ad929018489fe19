/** What the soak's driver is told to do. Plain data, sent to its process. */
import type { NbdAddress } from './nbd-client.ts'

export interface Source {
  /** NBD export name. */
  readonly nbdName: string
  /** Path of the same bytes over HTTP. */
  readonly httpPath: string
  /** The file that holds them. */
  readonly file: string
}

export interface SoakPlan {
  readonly http: string
  readonly nbd: NbdAddress
  readonly seed: number
  /** Half of them NBD, half HTTP. */
  readonly connections: number
  /** Images that come and go at the same time. */
  readonly churns: number
  /** Between a client's rounds, on average, at least. */
  readonly thinkMs: number
  /** Whole images: what cold and sequential readers read. */
  readonly images: readonly Source[]
  /** Single files inside the images. */
  readonly files: readonly Source[]
  /** A file of which the images that come and go are partly made, so that they share pages. */
  readonly sharedFile: string
  readonly churnBytes: number
}

export const STOP = 'stop'
