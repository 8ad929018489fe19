/** How reading an archive can fail. All of it is the archive's fault. */
import { AppError, defineErrors } from '../core/index.ts'

const BAD_ARCHIVE = { http: 422, nbd: 'EIO', exit: 1 } as const

export const TAR_ERRORS = defineErrors({
  ERR_TAR_BAD_HEADER: {
    ...BAD_ARCHIVE,
    doc: 'Where a header of a tar archive should be is none, or one of its fields makes no sense.',
  },
  ERR_TAR_TRUNCATED: {
    ...BAD_ARCHIVE,
    doc: 'A tar archive ends inside an entry, or without the two blocks of zeros that end one: it was cut short.',
  },
  ERR_TAR_UNSUPPORTED: {
    ...BAD_ARCHIVE,
    doc: 'A tar archive has an entry of a kind that cannot be a file: a part of a multi-volume archive, say.',
  },
})

export type TarErrorCode = keyof typeof TAR_ERRORS

export function tarError(code: TarErrorCode, message: string): AppError {
  return new AppError(code, message)
}
