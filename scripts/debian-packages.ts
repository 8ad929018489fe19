/**
 * The Debian packages that tests and benchmarks use beyond Node, in one place: what each is needed for and
 * how to see that it is there. The server itself needs none of them. Installing is provision.ts's work.
 */
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'

export interface DebianPackage {
  readonly name: string
  /** Commands that the package brings; all must be found for the package to count as present. */
  readonly commands: readonly string[]
  /** For a package without a command: one of these files shows that it is there. */
  readonly files?: readonly string[]
  readonly neededFor: string
}

export const DEBIAN_PACKAGES: readonly DebianPackage[] = [
  {
    name: 'erofs-utils',
    commands: ['mkfs.erofs', 'fsck.erofs', 'dump.erofs'],
    neededFor: 'building and checking real EROFS images',
  },
  {
    name: 'libnbd-bin',
    commands: ['nbdinfo', 'nbdcopy', 'nbdfuse'],
    neededFor:
      'the reference NBD client; nbdfuse carries exports to the kernel without an nbd module',
  },
  {
    name: 'python3-libnbd',
    commands: ['nbdsh'],
    neededFor: 'NBD requests that the command-line clients cannot form',
  },
  {
    name: 'nbdkit',
    commands: ['nbdkit'],
    neededFor: 'the server that benchmarks compare with',
  },
  {
    name: 'qemu-utils',
    commands: ['qemu-img', 'qemu-io', 'qemu-nbd'],
    neededFor: 'a second NBD client and a server that benchmarks compare with',
  },
  {
    name: 'qemu-block-extra',
    commands: [],
    files: [
      '/usr/lib/x86_64-linux-gnu/qemu/block-curl.so',
      '/usr/lib/aarch64-linux-gnu/qemu/block-curl.so',
    ],
    neededFor: 'QEMU as an HTTP range client',
  },
  { name: 'nbd-client', commands: ['nbd-client'], neededFor: "the kernel's NBD client" },
  { name: 'fio', commands: ['fio'], neededFor: 'NBD load in benchmarks' },
  {
    name: 'nginx-light',
    commands: ['nginx'],
    neededFor: 'the HTTP server that benchmarks compare with',
  },
  { name: 'wrk', commands: ['wrk'], neededFor: 'HTTP load in benchmarks' },
  { name: 'curl', commands: ['curl'], neededFor: 'an HTTP client that is not ours' },
  { name: 'fuse3', commands: ['fusermount3'], neededFor: 'unmounting what nbdfuse mounted' },
  {
    name: 'attr',
    commands: ['getfattr', 'setfattr'],
    neededFor: 'comparing extended attributes of a mount',
  },
  { name: 'xz-utils', commands: ['xz'], neededFor: 'archives to import' },
  { name: 'zstd', commands: ['zstd'], neededFor: 'archives to import' },
  {
    name: 'umoci',
    commands: ['umoci'],
    neededFor: 'making OCI images, and unpacking them to compare',
  },
  { name: 'skopeo', commands: ['skopeo'], neededFor: 'OCI images in the forms of others' },
  { name: 'strace', commands: ['strace'], neededFor: 'counting system calls and injecting faults' },
  {
    name: 'prometheus',
    commands: ['promtool'],
    neededFor: 'checking the Prometheus rules and the /metrics page',
  },
  { name: 'chromium', commands: ['chromium'], neededFor: 'the dashboard in a real browser' },
  { name: 'jq', commands: ['jq'], neededFor: 'reading --json output in documented commands' },
  {
    name: 'systemd',
    commands: ['systemd-analyze'],
    neededFor: 'checking the units in deploy/systemd',
  },
]

/** Debian keeps servers and mount tools where a plain user's PATH does not look. */
const EXTRA_FOLDERS = ['/usr/local/sbin', '/usr/sbin', '/sbin']

/** The full path of a command, or undefined. */
export function findCommand(name: string): string | undefined {
  for (const folder of [...(process.env['PATH'] ?? '').split(delimiter), ...EXTRA_FOLDERS]) {
    if (folder === '') continue
    const path = join(folder, name)
    if (isUsable(path, constants.X_OK)) return path
  }
  return undefined
}

/** The package that brings a command. */
export function packageOf(command: string): DebianPackage | undefined {
  return DEBIAN_PACKAGES.find((entry) => entry.commands.includes(command))
}

export function missingPackages(): DebianPackage[] {
  return DEBIAN_PACKAGES.filter((entry) => !isPresent(entry))
}

function isPresent(entry: DebianPackage): boolean {
  if (!entry.commands.every((command) => findCommand(command) !== undefined)) return false
  return entry.files === undefined || entry.files.some((file) => isUsable(file, constants.F_OK))
}

function isUsable(path: string, mode: number): boolean {
  try {
    accessSync(path, mode)
    return true
  } catch {
    return false
  }
}
