/**
 * Which requests a read-only export takes: the first of the four steps of a request (validateRequest,
 * execute, toNbdErrno, encodeReply). Pure; nothing is read or answered here.
 */
import type { RequestHeader } from './codec.ts'
import type { NbdErrno } from './protocol.ts'
import { NBD_CMD, NBD_CMD_FLAG } from './protocol.ts'

export interface RequestRules {
  readonly size: number
  readonly structured: boolean
  readonly maxRequestBytes: number
}

/** The error that a request earns before anything is done for it (NBD proto: "Request types"). */
export function validateRequest(request: RequestHeader, rules: RequestRules): NbdErrno | undefined {
  switch (request.type) {
    case NBD_CMD.READ:
      // DF exists only once structured replies are negotiated.
      if ((request.flags & ~(rules.structured ? NBD_CMD_FLAG.DF : 0)) !== 0) return 'EINVAL'
      if (request.length > rules.maxRequestBytes) return 'EINVAL'
      return isInside(request, rules.size) ? undefined : 'EINVAL'
    case NBD_CMD.CACHE:
      if (request.flags !== 0) return 'EINVAL'
      return isInside(request, rules.size) ? undefined : 'EINVAL'
    case NBD_CMD.FLUSH:
      // Offset and length must be 0, but that is the client's rule: there is nothing to flush anyway.
      return request.flags === 0 ? undefined : 'EINVAL'
    case NBD_CMD.WRITE:
    case NBD_CMD.TRIM:
      return request.flags === 0 ? 'EPERM' : 'EINVAL'
    case NBD_CMD.WRITE_ZEROES:
      return (request.flags & ~NBD_CMD_FLAG.NO_HOLE) === 0 ? 'EPERM' : 'EINVAL'
    default:
      // Unknown, or not negotiated (BLOCK_STATUS without a context), or never offered (RESIZE).
      return 'EINVAL'
  }
}

/** Without a sum that could leave the exact range of a number. */
function isInside(request: RequestHeader, size: number): boolean {
  return request.length <= size && request.offset <= size - request.length
}

/** Reply bytes that a request will hold, which count against the limits: none for one that will be refused. */
export function replyBytes(request: RequestHeader, rules: RequestRules): number {
  if (request.type !== NBD_CMD.READ) return 0
  return validateRequest(request, rules) === undefined ? request.length : 0
}
