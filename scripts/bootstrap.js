/**
 * Brings a checkout on a machine with Node >= 20 and npm to the Node that package.json asks for, and starts a
 * task under it. Written in old syntax, with Node's own modules only: it runs before anything is installed.
 * It installs when node_modules does not match package-lock.json, and never otherwise, so that a second start
 * needs no network. It knows nothing of what the tasks do.
 *
 *   node scripts/bootstrap.js TASK [ARGUMENT...]   runs scripts/TASK.ts (npm test, npm run check, ...)
 *   node scripts/bootstrap.js --locate             prints the Node to use (the ./commonpage launcher)
 *   node scripts/bootstrap.js --install            installs if needed; the caller holds the install lock
 */
import { spawn, spawnSync } from 'child_process'
import fs from 'fs'
import os from 'os'
import path from 'path'
import { fileURLToPath } from 'url'

const SELF = fs.realpathSync(fileURLToPath(import.meta.url))
const ROOT = path.dirname(path.dirname(SELF))
const MODULES = path.join(ROOT, 'node_modules')
const LOCK_FILE = path.join(ROOT, '.cache', 'install.lock')
/** Holds the path of the Node to use; the launcher trusts it while it is newer than package-lock.json. */
const READY_FILE = path.join(MODULES, '.commonpage-node')
const OLDEST_NODE = 20

/** Exit codes of --install; 1 is left to flock, which answers it when the lock is held. */
const EXIT_INSTALLED = 0
const EXIT_NOT_INSTALLED = 3

class Failure extends Error {}

function fail(message, advice) {
  throw new Failure(message + '\n' + advice)
}

function say(message) {
  process.stderr.write('commonpage: ' + message + '\n')
}

function readJson(file) {
  try {
    return JSON.parse(fs.readFileSync(file, 'utf8'))
  } catch (error) {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return undefined
    throw new Failure('cannot read ' + file + ': ' + error.message)
  }
}

/**
 * Why node_modules does not hold what package-lock.json names, or undefined. npm writes
 * node_modules/.package-lock.json last, so an interrupted installation has none.
 */
function whyIncomplete(withDevelopment) {
  const wanted = readJson(path.join(ROOT, 'package-lock.json'))
  if (!wanted) {
    fail(
      'package-lock.json is missing in ' + ROOT,
      'Take it from the repository: git checkout package-lock.json',
    )
  }
  const installed = readJson(path.join(MODULES, '.package-lock.json'))
  if (!installed) return 'nothing is installed'
  for (const place of Object.keys(wanted.packages)) {
    const entry = wanted.packages[place]
    if (place.indexOf('node_modules/') !== 0 || entry.optional || entry.devOptional) continue
    if (entry.dev && !withDevelopment) continue
    const found = installed.packages[place]
    if (!found) return place + ' is not installed'
    if (found.version !== entry.version || found.integrity !== entry.integrity) {
      return place + ' is not the version in package-lock.json'
    }
  }
  return undefined
}

function requiredNodeMajor() {
  const engines = readJson(path.join(ROOT, 'package.json')).engines
  return Number(/\d+/.exec(engines.node)[0])
}

function versionOf(node) {
  const run = spawnSync(node, ['-p', 'process.versions.node'], { encoding: 'utf8' })
  return run.status === 0 ? run.stdout.trim() : undefined
}

function isExecutable(file) {
  try {
    fs.accessSync(file, fs.constants.X_OK)
    return true
  } catch {
    return false
  }
}

function foldersOnPath() {
  return (process.env.PATH || '').split(path.delimiter).filter(Boolean)
}

/** PATH without node_modules/.bin: npm must not run on a Node that it is about to replace. */
function systemPath() {
  const bin = path.join('node_modules', '.bin')
  return foldersOnPath()
    .filter((folder) => !folder.endsWith(bin))
    .join(path.delimiter)
}

/** The package that holds the Node binary for this machine, as the `node` package chooses it. */
function platformPackage() {
  const prefix = process.platform === 'darwin' && process.arch === 'arm64' ? 'node-bin' : 'node'
  return [prefix, process.platform, process.arch].join('-')
}

/** A Node that is new enough: the running one, one on the PATH, or the one in node_modules. */
function findNode() {
  const major = requiredNodeMajor()
  const candidates = [process.execPath]
    .concat(foldersOnPath().map((folder) => path.join(folder, 'node')))
    .concat([
      path.join(MODULES, 'node', 'bin', 'node'),
      path.join(MODULES, platformPackage(), 'bin', 'node'),
    ])
  const tried = {}
  for (const candidate of candidates) {
    if (!isExecutable(candidate)) continue
    const file = fs.realpathSync(candidate)
    if (tried[file]) continue
    tried[file] = true
    if (parseInt(versionOf(file) || '0', 10) >= major) return file
  }
  return undefined
}

/** The environment for npm: nothing of an npm that started us, and a cache that can be written. */
function npmEnvironment() {
  const env = { PATH: systemPath() }
  for (const name of Object.keys(process.env)) {
    if (name === 'PATH' || name === 'INIT_CWD' || name === 'NODE_OPTIONS') continue
    if (/^npm_(lifecycle|package|command|execpath|node_execpath)/.test(name)) continue
    if (/^npm_config_(local_prefix|global_prefix|prefix|node_gyp)$/.test(name)) continue
    env[name] = process.env[name]
  }
  const asked = spawnSync('npm', ['config', 'get', 'cache'], {
    cwd: ROOT,
    env: env,
    encoding: 'utf8',
  })
  if (asked.error) {
    fail(
      'npm is not on the PATH, and the packages of this checkout are not installed',
      'Install npm (Debian: apt-get install npm) and start again.',
    )
  }
  const cache = (asked.stdout || '').trim()
  if (!cache || !isWritableFolder(cache)) {
    env.npm_config_cache = path.join(ROOT, '.cache', 'npm')
    say('npm cannot write to ' + (cache || 'its cache') + ', using ' + env.npm_config_cache)
  }
  return env
}

function isWritableFolder(folder) {
  try {
    fs.mkdirSync(folder, { recursive: true })
    fs.accessSync(folder, fs.constants.W_OK)
    const content = path.join(folder, '_cacache')
    if (fs.existsSync(content)) fs.accessSync(content, fs.constants.W_OK)
    return true
  } catch {
    return false
  }
}

/** npm talks on stderr only: stdout belongs to the task. */
function npm(args, env) {
  const all = args.concat(['--no-audit', '--no-fund', '--no-update-notifier', '--loglevel=error'])
  const run = spawnSync('npm', all, { cwd: ROOT, env: env, stdio: ['ignore', 2, 2] })
  if (run.status === 0) return
  fail(
    'npm ' + args.join(' ') + ' failed' + (run.status === null ? ' (' + run.signal + ')' : ''),
    'Its own message stands above. Without network: connect once, later starts work offline.\n' +
      'Behind a proxy or mirror: npm config set registry URL. To see all: cd ' +
      ROOT +
      ' && npm ci',
  )
}

/** Everything that is missing, and nothing else. The caller holds the install lock. */
function install(withDevelopment) {
  const why = whyIncomplete(withDevelopment)
  let env
  if (why) {
    say('installing packages (' + why + ')')
    env = npmEnvironment()
    npm(['ci', '--include=dev'], env)
  }
  if (findNode()) return
  // Install scripts are off, so the `node` package could not fetch its binary: take the package that holds it.
  const version = readJson(path.join(ROOT, 'package.json')).devDependencies.node
  const name = platformPackage()
  say('installing Node ' + version + ' (' + name + ')')
  npm(['install', '--no-save', '--ignore-scripts', name + '@' + version], env || npmEnvironment())
  if (findNode()) return
  fail(
    'Node ' + version + ' from the package ' + name + ' does not run on this machine',
    'Install Node >= ' + requiredNodeMajor() + ' from https://nodejs.org and start again.',
  )
}

/** Installs under a lock that the kernel drops with its holder, so that starts at the same time take turns. */
function installLocked(withDevelopment) {
  try {
    fs.mkdirSync(path.dirname(LOCK_FILE), { recursive: true })
    fs.closeSync(fs.openSync(LOCK_FILE, 'a'))
    fs.accessSync(ROOT, fs.constants.W_OK)
  } catch (error) {
    fail(
      'cannot install packages: ' + error.message,
      'Use a checkout that user ' +
        os.userInfo().username +
        ' may write to, or let its owner run: npm ci',
    )
  }
  const flock = foldersOnPath()
    .map((folder) => path.join(folder, 'flock'))
    .find(isExecutable)
  if (!flock) return install(withDevelopment)
  const command = [LOCK_FILE, process.execPath, SELF, '--install']
  if (!withDevelopment) command.push('--production')
  let run = spawnSync(flock, ['-n'].concat(command), { stdio: ['ignore', 2, 2] })
  if (run.status === 1) {
    say('waiting for another start that is installing')
    run = spawnSync(flock, command, { stdio: ['ignore', 2, 2] })
  }
  if (run.status !== EXIT_INSTALLED) process.exit(1)
}

/** The Node to use, after installing what is missing. */
function prepare(withDevelopment) {
  let node = whyIncomplete(withDevelopment) ? undefined : findNode()
  if (!node) {
    installLocked(withDevelopment)
    node = findNode()
  }
  if (!node) fail('no Node >= ' + requiredNodeMajor() + ' found', 'Start again, or run: npm ci')
  return node
}

/** Lets the launcher skip this file next time. A checkout that cannot be written works without it. */
function remember(node) {
  const inside = node.indexOf(MODULES + path.sep) === 0
  const text = inside ? path.relative(ROOT, node) : node
  try {
    fs.writeFileSync(READY_FILE + '.' + process.pid, text + '\n')
    fs.renameSync(READY_FILE + '.' + process.pid, READY_FILE)
  } catch (error) {
    if (['EACCES', 'EROFS', 'EPERM', 'ENOSPC'].indexOf(error.code) < 0) throw error
  }
}

function runTask(node, task, args) {
  const file = path.join(ROOT, 'scripts', task.replace(':', '-') + '.ts')
  if (!fs.existsSync(file))
    fail(
      "there is no task '" + task + "'",
      'Tasks: build, check, check:full, bench, lock, pack, render, test',
    )
  const folders = [path.dirname(node), path.join(MODULES, '.bin')].concat(foldersOnPath())
  const env = Object.assign({}, process.env, { PATH: folders.join(path.delimiter) })
  const child = spawn(node, [file].concat(args), { cwd: ROOT, env: env, stdio: 'inherit' })
  // A terminal sends SIGINT to the child as well: only outlive it. The others come to this process alone.
  process.on('SIGINT', () => {})
  for (const signal of ['SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
  child.on('error', (error) => report(error))
  child.on('exit', (code, signal) => {
    if (signal === null) process.exit(code)
    process.removeAllListeners(signal)
    process.kill(process.pid, signal)
  })
}

function report(error) {
  if (!(error instanceof Failure)) throw error
  say(error.message)
  process.exitCode = process.argv[2] === '--install' ? EXIT_NOT_INSTALLED : 1
}

function main(args) {
  if (parseInt(process.versions.node, 10) < OLDEST_NODE) {
    fail(
      'Node ' +
        process.versions.node +
        ' is too old to start from, Node >= ' +
        OLDEST_NODE +
        ' is needed',
      'Debian 12 and Ubuntu 24.04: apt-get install nodejs npm, or see https://nodejs.org.',
    )
  }
  if (args[0] === '--install') return install(args[1] !== '--production')
  if (args[0] === '--locate') {
    const node = prepare(false)
    remember(node)
    process.stdout.write(node + '\n')
    return undefined
  }
  if (!args[0]) fail('no task given', 'Usage: node scripts/bootstrap.js TASK [ARGUMENT...]')
  return runTask(prepare(true), args[0], args.slice(1))
}

try {
  main(process.argv.slice(2))
} catch (error) {
  report(error)
}
