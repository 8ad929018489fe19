/**
 * How much memory a process holds, as the kernel counts it: resident pages now, and the most there ever were at
 * once, which no sampling misses. Linux only (proc_pid_status(5)).
 */
import { readFileSync, writeFileSync } from 'node:fs'

/** VmRSS, in bytes. @throws when there is no such process */
export function residentBytes(pid: number): number {
  return statusBytes(pid, 'VmRSS')
}

/** VmHWM, in bytes: the peak of VmRSS since the process began, or since `forgetPeak`. */
export function peakResidentBytes(pid: number): number {
  return statusBytes(pid, 'VmHWM')
}

/** Sets the peak to what is resident now. @returns whether the kernel allows it */
export function forgetPeak(pid: number): boolean {
  try {
    // proc_pid_clear_refs(5): "5 … reset the peak resident set size".
    writeFileSync(`/proc/${pid}/clear_refs`, '5')
    return true
  } catch {
    return false
  }
}

function statusBytes(pid: number, field: string): number {
  const status = readFileSync(`/proc/${pid}/status`, 'latin1')
  const kibibytes = new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1]
  // The kernel leaves the fields out of processes that have ended and were not waited for.
  if (kibibytes === undefined) throw new Error(`process ${pid} has no ${field}`)
  return Number(kibibytes) * 1024
}
