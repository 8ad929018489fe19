/**
 * How files become durable: written and fsynced under another name, linked into place, the folders
 * fsynced up to the first that was already known to be on disk. Only file-system steps in their order;
 * what the files mean is not known here.
 */
import * as fs from 'node:fs/promises'
import * as path from 'node:path'

import { errnoOf } from './errors.ts'

export type PublicationStep =
  'stage' | 'fsync-file' | 'make-folder' | 'fsync-folder' | 'link' | 'rename' | 'unlink'

/** Called after each step that changes the disk: crash tests stop the process there. */
export type StepHook = (step: PublicationStep, path: string) => void

/** A folder that another process removes while we publish into it is made again this often. */
const MAX_ATTEMPTS = 8
/** Folders known to be on disk. Beyond this the set is emptied: the price is a few more fsyncs. */
const MAX_KNOWN_FOLDERS = 16_384

export class Publisher {
  readonly #root: string
  readonly #hook: StepHook
  /** Folders whose entry in their parent was fsynced by this process. */
  readonly #known = new Set<string>()

  /** Everything is published below `root`, which exists and is durable. */
  constructor(root: string, hook: StepHook = () => undefined) {
    this.#root = root
    this.#hook = hook
  }

  /** Writes a new file and fsyncs it; removes it when that fails. */
  async stage(file: string, bytes: Uint8Array): Promise<void> {
    try {
      await fs.writeFile(file, bytes, { flag: 'wx', flush: true })
    } catch (error) {
      await fs.rm(file, { force: true })
      throw error
    }
    this.#hook('stage', file)
  }

  async syncFile(file: string): Promise<void> {
    await syncPath(file)
    this.#hook('fsync-file', file)
  }

  /**
   * Gives the staged, fsynced file its final name if that is free, and removes the staged name.
   * Also when the name was taken, the winner's entry is on disk when this resolves.
   */
  async link(staged: string, target: string): Promise<'created' | 'present'> {
    const created = await this.#inFolder(path.dirname(target), async () => {
      try {
        await fs.link(staged, target)
        this.#hook('link', target)
        return true
      } catch (error) {
        if (errnoOf(error) === 'EEXIST') return false
        throw error
      }
    })
    await this.#syncFolder(path.dirname(target))
    await fs.rm(staged, { force: true })
    this.#hook('unlink', staged)
    return created ? 'created' : 'present'
  }

  /** Puts the staged, fsynced file in the place of `target`, whether that exists or not. */
  async replace(staged: string, target: string): Promise<void> {
    await this.#inFolder(path.dirname(target), () => fs.rename(staged, target))
    this.#hook('rename', target)
    await this.#syncFolder(path.dirname(target))
  }

  /** @returns false when there was no such file */
  async remove(target: string): Promise<boolean> {
    try {
      await fs.unlink(target)
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return false
      throw error
    }
    this.#hook('unlink', target)
    await this.#syncNearest(path.dirname(target))
    return true
  }

  /** Removes empty folders from the parent of `target` upwards, below `stop`. Not durable: empty folders mean nothing. */
  async prune(target: string, stop: string): Promise<void> {
    for (let at = path.dirname(target); at.startsWith(stop + path.sep); at = path.dirname(at)) {
      try {
        await fs.rmdir(at)
      } catch {
        return
      }
      this.#known.delete(at)
    }
  }

  /** Makes a folder and its parents, each on disk before the next. */
  async makeFolder(folder: string): Promise<void> {
    await this.#inFolder(folder, () => Promise.resolve())
  }

  async #make(folder: string): Promise<void> {
    if (folder === this.#root || this.#known.has(folder)) return
    const parent = path.dirname(folder)
    await this.#make(parent)
    try {
      await fs.mkdir(folder)
      this.#hook('make-folder', folder)
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw error
    }
    // Also when it existed: whoever made it may not have fsynced the parent yet.
    await this.#syncFolder(parent)
    if (this.#known.size >= MAX_KNOWN_FOLDERS) this.#known.clear()
    this.#known.add(folder)
  }

  /** Makes the names in a folder that is there, and the folder's own, durable: others may have made them. */
  async settle(folder: string): Promise<void> {
    await this.#inFolder(folder, () => this.#syncFolder(folder))
  }

  async #inFolder<T>(folder: string, action: () => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#make(folder)
        return await action()
      } catch (error) {
        if (errnoOf(error) !== 'ENOENT' || attempt === MAX_ATTEMPTS) throw error
        for (let at = folder; at.startsWith(this.#root); at = path.dirname(at)) {
          this.#known.delete(at)
        }
      }
    }
  }

  /** Another deletion may have pruned the folder: then the removal of its entry is what must be on disk. */
  async #syncNearest(folder: string): Promise<void> {
    for (let at = folder; ; at = path.dirname(at)) {
      try {
        await this.#syncFolder(at)
        return
      } catch (error) {
        if (errnoOf(error) !== 'ENOENT' || at === this.#root) throw error
      }
    }
  }

  async #syncFolder(folder: string): Promise<void> {
    await syncPath(folder)
    this.#hook('fsync-folder', folder)
  }
}

async function syncPath(target: string): Promise<void> {
  const handle = await fs.open(target, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}
