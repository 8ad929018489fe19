/** The control plane as a data worker sees it: every call is a message to the main thread. */
import type { ControlPlane } from './planes.ts'
import type { RpcHandlers, RpcPeer } from './rpc.ts'

const PREFIX = 'control.'

const METHODS = [
  'domains',
  'images',
  'image',
  'tag',
  'remove',
  'beginUpload',
  'abortUpload',
  'finishBlob',
  'startImport',
  'jobs',
  'job',
  'cancelJob',
  'diskUsage',
  'sharing',
  'resetSharing',
  'stats',
  'readiness',
] as const satisfies readonly (keyof ControlPlane)[]

/** A method of the interface that is missing from the list above would be missing here: the type says so. */
type Complete =
  Exclude<keyof ControlPlane, (typeof METHODS)[number]> extends never ? ControlPlane : never

export function controlClient(rpc: RpcPeer): Complete {
  const calls: Partial<Record<keyof ControlPlane, unknown>> = {}
  for (const method of METHODS) {
    calls[method] = (...args: unknown[]) => rpc.call(PREFIX + method, ...args)
  }
  return calls as Complete
}

/** The other end: handlers for a data worker's calls. */
export function controlHandlers(control: ControlPlane): RpcHandlers {
  return Object.fromEntries(
    METHODS.map((method) => [
      PREFIX + method,
      (...args: never[]) => (control[method] as (...a: never[]) => unknown).apply(control, args),
    ]),
  )
}
