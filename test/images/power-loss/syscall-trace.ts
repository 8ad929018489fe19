/**
 * What a process really asked the kernel to do with files, recorded by strace and read back as a list in the
 * order of completion. Recorded outside of the process, so that no layer of it can say one thing and do another.
 * Only calls that succeeded and lie below one folder are kept. What they mean for a disk is disk-model.ts.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'

/** Paths are relative to the recorded folder; `''` is the folder itself. */
export type Operation =
  | { readonly op: 'create' | 'mkdir' | 'rmdir' | 'unlink' | 'sync'; readonly path: string }
  | { readonly op: 'write'; readonly path: string; readonly offset: number; readonly bytes: Buffer }
  | { readonly op: 'link' | 'rename'; readonly path: string; readonly to: string }
  /** The process said something: a write to the file of marks. */
  | { readonly op: 'mark'; readonly text: string }

/** Every call that changes a file system; `openat` also tells where a descriptor's position starts. */
const CALLS = [
  'open,openat,openat2,creat,write,pwrite64,writev,pwritev,pwritev2,sendfile,copy_file_range,splice',
  'truncate,ftruncate,fallocate,fsync,fdatasync,sync_file_range,rename,renameat,renameat2',
  'link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,lseek',
].join(',')
/** Longer than any write of the process, which strace would cut off. */
const LONGEST_WRITE = 64 * 1024 * 1024

interface Call {
  readonly name: string
  readonly args: string
  readonly result: string
  readonly endedAt: number
}

export interface RecordOptions {
  /** What is below it is recorded. */
  readonly folder: string
  /** Writes to this file are marks. */
  readonly marks: string
  /** For strace's own output: made here. */
  readonly output: string
  readonly command: readonly string[]
}

/** Runs a command to its end. @throws when it fails, or changes files in a way that is not understood here */
export async function record(options: RecordOptions): Promise<Operation[]> {
  await mkdir(options.output)
  const strace = ['-ff', '-y', '-xx', '-s', String(LONGEST_WRITE), '-ttt', '-T', '--seccomp-bpf']
  const args = [...strace, '-f', '-e', `trace=${CALLS}`, '-o', join(options.output, 'thread')]
  const child = spawn('strace', [...args, '--', ...options.command], {
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  const [code] = (await once(child, 'exit')) as [number | null]
  assert.equal(code, 0, `${options.command.join(' ')} failed`)
  const calls: Call[] = []
  for (const name of await readdir(options.output)) {
    const text = await readFile(join(options.output, name), 'latin1')
    for (const line of text.split('\n')) calls.push(...parseCall(line))
  }
  return operationsOf(
    calls.toSorted((a, b) => a.endedAt - b.endedAt),
    options,
  )
}

const CALL = /^(\d+\.\d+) (\w+)\((.*)\) += (\S+).* <(\d+\.\d+)>$/

function parseCall(line: string): Call[] {
  const match = CALL.exec(line)
  const [, at, name = '', args = '', result = '', took] = match ?? []
  if (match === null || result === '-1') return []
  return [{ name, args, result, endedAt: Number(at) + Number(took) }]
}

function operationsOf(calls: readonly Call[], { folder, marks }: RecordOptions): Operation[] {
  const positions = new Map<string, number>()
  const operations: Operation[] = []
  const local = (path: string): string | undefined =>
    path === folder || path.startsWith(`${folder}/`) ? path.slice(folder.length + 1) : undefined
  for (const { name, args, result } of calls) {
    const paths = quoted(args)
    const [fd = '', fdPath = ''] = descriptor(args)
    switch (name) {
      case 'open':
      case 'openat': {
        positions.set(descriptor(result)[0] ?? '', 0)
        const path = local(paths.at(-1)?.toString() ?? '')
        if (path === undefined || !args.includes('O_CREAT')) break
        const replaces = args.includes('O_TRUNC') && !args.includes('O_EXCL')
        assert.ok(!replaces && !args.includes('O_APPEND'), `not modelled: ${name}(${args})`)
        operations.push({ op: 'create', path })
        break
      }
      case 'write':
      case 'pwrite64': {
        const bytes = paths.at(-1)?.subarray(0, Number(result)) ?? Buffer.alloc(0)
        if (fdPath === marks) operations.push({ op: 'mark', text: bytes.toString() })
        const path = local(fdPath)
        const offset =
          name === 'write'
            ? (positions.get(fd) ?? 0)
            : Number(args.slice(args.lastIndexOf(',') + 1))
        if (name === 'write') positions.set(fd, offset + bytes.byteLength)
        if (path !== undefined) operations.push({ op: 'write', path, offset, bytes })
        break
      }
      case 'fsync':
      case 'fdatasync': {
        const path = local(fdPath)
        if (path !== undefined) operations.push({ op: 'sync', path })
        break
      }
      case 'link':
      case 'rename': {
        const [path, to] = paths.map((bytes) => local(bytes.toString()))
        if (path === undefined && to === undefined) break
        assert.ok(path !== undefined && to !== undefined, `${name} over the border: ${args}`)
        operations.push({ op: name, path, to })
        break
      }
      case 'unlink':
      case 'mkdir':
      case 'rmdir': {
        const path = local(paths[0]?.toString() ?? '')
        if (path !== undefined) operations.push({ op: name, path })
        break
      }
      default: {
        const touched = [fdPath, ...paths.map(String)].some((path) => local(path) !== undefined)
        assert.ok(!touched, `not modelled: ${name}(${args.slice(0, 200)})`)
      }
    }
  }
  return operations
}

/** The first descriptor of a text, `17<\x2f…>`: its number and the path that it had. */
function descriptor(text: string): [string?, string?] {
  const match = /^(\d+)<([^>]*)>/.exec(text)
  return match === null ? [] : [match[1] ?? '', unescapeHex(match[2] ?? '').toString()]
}

function quoted(args: string): Buffer[] {
  return [...args.matchAll(/"([^"]*)"/g)].map((match) => unescapeHex(match[1] ?? ''))
}

function unescapeHex(text: string): Buffer {
  return Buffer.from(text.replaceAll('\\x', ''), 'hex')
}
