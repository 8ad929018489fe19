/**
 * The one error class of the project and the table that every module registers its codes in. Nothing
 * here knows what HTTP, NBD or the command line do with an error: they translate it once, at their
 * boundary, from the fields of the code's definition.
 */

const BRAND = Symbol.for('commonpage.error')

/** What a code means at each boundary. A field left out takes the boundary's default for "our fault". */
export interface ErrorDefinition {
  /** HTTP status code. */
  readonly http?: number
  /** NBD errno name (NBD proto: "Error values"). */
  readonly nbd?: 'EPERM' | 'EIO' | 'ENOMEM' | 'EINVAL' | 'ENOSPC' | 'EOVERFLOW' | 'ENOTSUP'
  /** Exit code of the command line. */
  readonly exit?: number
  /** One sentence for docs/reference/errors.md: when it happens and what the user can do. */
  readonly doc: string
}

export type ErrorTable = Readonly<Record<string, ErrorDefinition>>

const registered = new Map<string, ErrorDefinition>()

/**
 * Registers a module's codes. The type of the result gives the union of its codes:
 * `type ErofsErrorCode = keyof typeof EROFS_ERRORS`.
 */
export function defineErrors<const T extends ErrorTable>(table: T): T {
  for (const [code, definition] of Object.entries(table)) registered.set(code, definition)
  return table
}

/** Every registered code with its definition, sorted by code. */
export function errorDefinitions(): [string, ErrorDefinition][] {
  return [...registered].toSorted(([a], [b]) => (a < b ? -1 : 1))
}

export interface AppErrorOptions {
  /** What the user can do about it, one line. */
  readonly hint?: string
  /** Machine-readable facts (JSON values only). */
  readonly details?: Readonly<Record<string, unknown>>
  readonly cause?: unknown
}

/**
 * An error that a boundary may show. The message says what failed, on what, with which value, what was
 * expected: lower case start, no full stop.
 */
export class AppError extends Error {
  readonly code: string
  readonly hint: string | undefined
  readonly details: Readonly<Record<string, unknown>> | undefined

  constructor(code: string, message: string, options: AppErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'AppError'
    this.code = code
    this.hint = options.hint
    this.details = options.details
    Object.defineProperty(this, BRAND, { value: true })
  }

  get definition(): ErrorDefinition | undefined {
    return registered.get(this.code)
  }
}

/** True for an AppError of this or another copy of the package. */
export function isAppError(error: unknown): error is AppError {
  return typeof error === 'object' && error !== null && BRAND in error
}

/** The shape in which an error crosses a thread or process boundary (structured clone drops classes). */
export interface ErrorRecord {
  readonly code: string
  readonly message: string
  readonly hint?: string
  readonly details?: Readonly<Record<string, unknown>>
}

export function toErrorRecord(error: unknown): ErrorRecord {
  if (isAppError(error)) {
    return {
      code: error.code,
      message: error.message,
      ...(error.hint === undefined ? {} : { hint: error.hint }),
      ...(error.details === undefined ? {} : { details: error.details }),
    }
  }
  const message = error instanceof Error ? error.message : String(error)
  return { code: 'ERR_INTERNAL', message }
}

export function fromErrorRecord(record: ErrorRecord): AppError {
  return new AppError(record.code, record.message, {
    ...(record.hint === undefined ? {} : { hint: record.hint }),
    ...(record.details === undefined ? {} : { details: record.details }),
  })
}

export const CORE_ERRORS = defineErrors({
  ERR_INTERNAL: { http: 500, nbd: 'EIO', exit: 1, doc: 'A bug in commonpage: please report it.' },
  ERR_ABORTED: { http: 499, nbd: 'EIO', exit: 130, doc: 'The operation was cancelled.' },
  ERR_INVALID_ARGUMENT: {
    http: 400,
    nbd: 'EINVAL',
    exit: 2,
    doc: 'A value is not of the expected form.',
  },
  ERR_REF_INVALID: {
    http: 400,
    nbd: 'EINVAL',
    exit: 2,
    doc: 'A reference is not DOMAIN/NAME[:TAG|@sha256:HEX].',
  },
  ERR_DIGEST_INVALID: {
    http: 400,
    nbd: 'EINVAL',
    exit: 2,
    doc: 'A digest is not sha256: and 64 hex digits.',
  },
})
