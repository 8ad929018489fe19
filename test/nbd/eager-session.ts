/** A session without a socket, for what it does with requests: all that it writes counts as taken at once. */
import assert from 'node:assert/strict'

import { Budget } from '../../src/nbd/budget.ts'
import type { NbdExport } from '../../src/nbd/export.ts'
import { createNbdCounters } from '../../src/nbd/index.ts'
import { resolveLimits } from '../../src/nbd/limits.ts'
import { Meter } from '../../src/nbd/meter.ts'
import { GatherPool, OutputQueue } from '../../src/nbd/output.ts'
import { Session } from '../../src/nbd/session.ts'

/** A session whose client takes every byte at once. */
export class EagerSession {
  readonly session: Session
  /** Requests. */
  answered = 0
  /** Turns of the event loop that were used up. */
  spent = 0

  constructor(target: NbdExport) {
    const limits = resolveLimits()
    const output = new OutputQueue(
      {
        write: () => true,
        onWritten: (requests, bytes) => {
          this.answered += requests
          this.session.written(requests, bytes)
        },
        onReleaseError: (error) => assert.fail(String(error)),
      },
      new GatherPool(),
    )
    const fail = (error: unknown): never => assert.fail(String(error))
    this.session = new Session(
      {
        target,
        structured: false,
        limits,
        output,
        meter: new Meter(createNbdCounters()),
        budget: new Budget(limits.maxTotalInFlightBytes),
      },
      {
        onPumpNeeded: () => this.session.pump(),
        onTurnSpent: () => this.spent++,
        onDisconnect: () => fail('disconnected'),
        onFatal: fail,
        onExportError: fail,
      },
    )
  }
}
