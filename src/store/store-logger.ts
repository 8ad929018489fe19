/** The part of a pino logger that the store uses: fields first, sentence second. */
export interface StoreLogger {
  info(fields: Readonly<Record<string, unknown>>, message: string): void
  warn(fields: Readonly<Record<string, unknown>>, message: string): void
}

export const SILENT_LOGGER: StoreLogger = { info: () => undefined, warn: () => undefined }
