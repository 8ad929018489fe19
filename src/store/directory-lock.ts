/**
 * A lock of one process on a folder or file of work: an SQLite database held in an exclusive
 * transaction. The kernel releases it with the process, also after kill -9, so that no stale lock can
 * remain. Nothing is ever stored in the database. On network file systems it is as good as their POSIX
 * locks.
 */
import { DatabaseSync } from 'node:sqlite'

import { sqliteCodeOf, writeError } from './errors.ts'

/** sqlite3.h: primary result code. */
const SQLITE_BUSY = 5

export class DirectoryLock implements Disposable {
  readonly #database: DatabaseSync

  private constructor(database: DatabaseSync) {
    this.#database = database
  }

  /**
   * Takes the lock, waiting up to `timeoutMs` (the thread is blocked while it waits).
   *
   * @returns undefined when another process, or another holder in this one, has it
   * @throws ERR_STORE_WRITE_FAILED when the file cannot be used
   */
  static acquire(file: string, timeoutMs = 0): DirectoryLock | undefined {
    let database: DatabaseSync | undefined
    try {
      database = new DatabaseSync(file, { timeout: timeoutMs })
      // Nothing is written, so there is nothing to roll back: no journal file appears beside the lock.
      database.exec('PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE')
      return new DirectoryLock(database)
    } catch (error) {
      database?.close()
      if (sqliteCodeOf(error) === SQLITE_BUSY) return undefined
      throw writeError(error, `the lock ${file}`)
    }
  }

  [Symbol.dispose](): void {
    if (this.#database.isOpen) this.#database.close()
  }
}
