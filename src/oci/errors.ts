/** How an OCI or docker image can be unusable. All of it is the image's fault. */
import { AppError, defineErrors } from '../core/index.ts'

const BAD_IMAGE = { http: 422, exit: 1 } as const

export const OCI_ERRORS = defineErrors({
  ERR_OCI_INVALID: {
    ...BAD_IMAGE,
    doc: 'An archive is no OCI layout and no docker archive, or a document in it is not what the specification says.',
  },
  ERR_OCI_DIGEST: {
    ...BAD_IMAGE,
    doc: 'A manifest, configuration or layer does not have the digest that refers to it: the archive is damaged.',
  },
  ERR_OCI_NOT_FOUND: {
    http: 404,
    exit: 3,
    doc: 'An archive holds no image of the tag or platform that was asked for; the message names those that it holds.',
  },
  ERR_OCI_UNSUPPORTED: {
    ...BAD_IMAGE,
    doc: 'A layer is not a tar archive, plain or of gzip or zstd, or lies outside of the archive.',
  },
})

export type OciErrorCode = keyof typeof OCI_ERRORS

export function ociError(code: OciErrorCode, message: string, hint?: string): AppError {
  return new AppError(code, message, hint === undefined ? {} : { hint })
}
