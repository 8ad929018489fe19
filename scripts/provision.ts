/**
 * Brings the Debian packages that tests and benchmarks use: installs the missing ones when run as root, once
 * and without questions; otherwise gives the one command that does. Set COMMONPAGE_NO_APT=1 to leave the
 * machine as it is. Nothing fails here: what stays missing is skipped, and counted, by the tests.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'

import { findCommand, missingPackages } from './debian-packages.ts'

/** Another apt run may be under way, as on a machine that has just started. */
const APT_LOCK_SECONDS = 120
const POLICY_FILE = '/usr/sbin/policy-rc.d'
const POLICY =
  '#!/bin/sh\n# Written by a test run of commonpage while it installs packages; may be deleted.\nexit 101\n'

/** Lines to show at the end: what is missing and how to get it; empty when nothing is. */
export function provision(): string[] {
  if (missingPackages().length > 0 && mayInstall()) install()
  const missing = missingPackages()
  if (missing.length === 0) return []
  return [
    `Not everything was tried: ${missing.length} Debian packages are missing. As root:`,
    `apt-get update && apt-get install --no-install-recommends ${missing.map(({ name }) => name).join(' ')}`,
  ]
}

function mayInstall(): boolean {
  return (
    process.getuid?.() === 0 &&
    findCommand('apt-get') !== undefined &&
    process.env['COMMONPAGE_NO_APT'] !== '1'
  )
}

function install(): void {
  const names = missingPackages().map(({ name }) => name)
  console.log(`installing Debian packages: ${names.join(' ')}`)
  const restore = keepServicesStopped()
  try {
    const updated = apt(['update'])
    if (updated) apt(['install', '--yes', '--no-install-recommends', ...names])
  } finally {
    restore()
  }
}

function apt(args: readonly string[]): boolean {
  const options = ['-q', '-o', `DPkg::Lock::Timeout=${APT_LOCK_SECONDS}`, '-o', 'Dpkg::Use-Pty=0']
  const run = spawnSync('apt-get', [...options, ...args], {
    encoding: 'utf8',
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  if (run.status === 0) return true
  console.log(`apt-get ${args.join(' ')} failed; going on without\n${run.stderr}`)
  return false
}

/**
 * Debian starts a server as soon as it is installed (nginx, prometheus); the tests need the programs only.
 * invoke-rc.d(8): exit code 101 of policy-rc.d forbids the start. A policy that is not ours is left alone.
 */
function keepServicesStopped(): () => void {
  if (existsSync(POLICY_FILE) && readFileSync(POLICY_FILE, 'utf8') !== POLICY) return () => {}
  writeFileSync(POLICY_FILE, POLICY, { mode: 0o755 })
  return () => {
    rmSync(POLICY_FILE, { force: true })
  }
}
