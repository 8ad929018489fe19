/**
 * The one table of settings: name in the file, flag, form, default and meaning. Validation, the JSON Schema
 * for editors, `config print` and the flags of `serve` come from here. It reads nothing, decides nothing and
 * imports nothing, so that the command tree can be built from it at once.
 */

export type SettingKind =
  'text' | 'size' | 'address' | 'hosts' | 'boolean' | 'workers' | 'count' | 'duration' | 'choice'

export interface Setting {
  readonly kind: SettingKind
  /** Long flag of `serve`, without dashes. */
  readonly flag: string
  /** How the flag's value is called in help texts; absent for booleans. */
  readonly placeholder?: string
  /** As a user would write it; undefined: unset. */
  readonly default: string | boolean | undefined
  readonly choices?: readonly string[]
  /** Words that are accepted beside the form of the kind. */
  readonly words?: readonly string[]
  readonly doc: string
}

function setting<const T extends Setting>(definition: T): T {
  return definition
}

/** Keys are paths in the configuration file; the environment variable follows from them. */
export const SETTINGS = {
  data: setting({
    kind: 'text',
    flag: 'data',
    placeholder: 'DIR',
    default: './data',
    doc: 'directory that holds everything the server keeps',
  }),
  'http.listen': setting({
    kind: 'address',
    flag: 'http',
    placeholder: 'HOST:PORT',
    default: '127.0.0.1:8080',
    doc: 'address of the HTTP API and the dashboard; port 0 takes a free one',
  }),
  'http.allowedHosts': setting({
    kind: 'hosts',
    flag: 'http-allowed-hosts',
    placeholder: 'NAME,…',
    default: undefined,
    doc: 'names that clients may ask for besides addresses and localhost, *.NAME for all below; on loopback all others are refused',
  }),
  'nbd.listen': setting({
    kind: 'address',
    flag: 'nbd',
    placeholder: 'HOST:PORT',
    default: '127.0.0.1:10809',
    doc: 'address of the NBD server; port 0 takes a free one',
  }),
  'nbd.socket': setting({
    kind: 'text',
    flag: 'nbd-socket',
    placeholder: 'PATH',
    default: undefined,
    doc: 'Unix socket of the NBD server, besides TCP',
  }),
  'nbd.defaultExport': setting({
    kind: 'text',
    flag: 'default-export',
    placeholder: 'NAME',
    default: undefined,
    doc: 'export that NBD clients get when they name none',
  }),
  'cache.size': setting({
    kind: 'size',
    flag: 'cache-size',
    placeholder: 'SIZE',
    default: 'auto',
    words: ['auto'],
    doc: 'memory of the page cache; auto: up to 60 % of the cgroup limit, else a quarter of memory up to 1 GiB, and always what the rest leaves',
  }),
  'cache.frameSize': setting({
    kind: 'size',
    flag: 'frame-size',
    placeholder: 'SIZE',
    default: '16KiB',
    doc: 'unit of memory and of filling: 16KiB, 32KiB or 64KiB',
  }),
  'cache.readahead': setting({
    kind: 'boolean',
    flag: 'readahead',
    default: true,
    doc: 'read ahead of sequential readers',
  }),
  'cache.allowTiny': setting({
    kind: 'boolean',
    flag: 'allow-tiny-cache',
    default: false,
    doc: 'accept a cache below 64 MiB (for tests)',
  }),
  workers: setting({
    kind: 'workers',
    flag: 'workers',
    placeholder: 'N',
    default: 'auto',
    words: ['auto'],
    doc: 'threads that serve reads, each further one with 64 MiB of its own; auto: one less than the cores, 1 to 8',
  }),
  'connections.max': setting({
    kind: 'count',
    flag: 'max-connections',
    placeholder: 'N',
    default: '4096',
    doc: 'connections at once of each protocol, NBD and HTTP; one more is closed at once',
  }),
  'connections.maxPerPeer': setting({
    kind: 'count',
    flag: 'max-connections-per-peer',
    placeholder: 'N',
    default: '1024',
    doc: 'of these, connections of one IPv4 address or IPv6 /64',
  }),
  drainTimeout: setting({
    kind: 'duration',
    flag: 'drain-timeout',
    placeholder: 'TIME',
    default: '30s',
    doc: 'from SIGTERM on, how long clients may take for replies that are under way',
  }),
  insecure: setting({
    kind: 'boolean',
    flag: 'insecure',
    default: false,
    doc: 'listen off loopback without authentication: whoever reaches the port reads, replaces and deletes images',
  }),
  'log.level': setting({
    kind: 'choice',
    flag: 'log-level',
    placeholder: 'LEVEL',
    default: 'info',
    choices: ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'],
    doc: 'least severe level that is written',
  }),
  'log.format': setting({
    kind: 'choice',
    flag: 'log-format',
    placeholder: 'FORMAT',
    default: 'auto',
    choices: ['auto', 'json', 'pretty'],
    doc: 'form of log lines; auto: pretty on a terminal, else JSON',
  }),
} as const satisfies Readonly<Record<string, Setting>>

export type SettingPath = keyof typeof SETTINGS

export const SETTING_PATHS = Object.keys(SETTINGS) as readonly SettingPath[]

export const ENVIRONMENT_PREFIX = 'COMMONPAGE_'

/** Variables that are no settings: name and meaning, as the reference has them. */
export const VARIABLES: Readonly<Record<string, string>> = {
  COMMONPAGE_SERVER: 'server that the commands talk to, when `--server` does not say',
  COMMONPAGE_CONFIG: 'configuration file, when `--config` does not say',
  COMMONPAGE_LOG:
    'levels of the log of `serve`, over `log.level`: one for all, and others for subsystems, as in `info,nbd=debug,cache:fill=trace`; ' +
    'subsystems are `server`, `server:http`, `nbd:conn`, `cache:fill`, `store`, `images:import` and `images:list`, and `nbd` means all that begin with `nbd:`; levels that do not exist are ignored',
  COMMONPAGE_COMMIT: 'commit that a build is of, as the metric `commonpage_build_info` shows it',
  COMMONPAGE_NO_APT: '`1`: `npm test` installs no Debian packages',
}

/** Variables of tests and benchmarks, which a server that they start finds in its environment and ignores. */
export const DEVELOPMENT_VARIABLES: Readonly<Record<string, string>> = {
  COMMONPAGE_FULL: '`1`: full counts, as in `npm run check:full`',
  COMMONPAGE_SEED: 'seed of fuzzing, crash, power-cut and HTTP tests; what it chooses: below',
  COMMONPAGE_NBD_FUZZ: 'session of the NBD fuzzing to repeat alone, as a failure printed it',
  COMMONPAGE_UPDATE: '`1`: `test/http/openapi.test.ts` writes `docs/reference/openapi.json` anew',
  COMMONPAGE_SCREENSHOTS: 'folder for screenshots that `test/dashboard` takes',
  COMMONPAGE_SMOKE: '`1`: a micro benchmark runs with small numbers',
}

/** `cache.frameSize` → `COMMONPAGE_CACHE__FRAME_SIZE`. */
export function environmentName(path: string): string {
  const words = path.split('.').map((part) => part.replaceAll(/[A-Z]/g, '_$&').toUpperCase())
  return ENVIRONMENT_PREFIX + words.join('__')
}
