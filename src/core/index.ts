/**
 * Bytes, units, errors, digests, references: what every other module may use. No I/O, no dependencies,
 * nothing that knows of images, caches or protocols.
 */
export * from './byte-source.ts'
export * from './closest.ts'
export * from './counters.ts'
export * from './digest.ts'
export * from './errors.ts'
export * from './module-url.ts'
export * from './ref.ts'
export * from './units.ts'
