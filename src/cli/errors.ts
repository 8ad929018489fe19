/** Error codes of the command line and the one list of exit codes. */
import { defineErrors } from '../core/index.ts'

/** What the command's exit code says. Signals exit with 128 + their number. */
export const EXIT = {
  ok: 0,
  failure: 1,
  usage: 2,
  notFound: 3,
  refused: 4,
  unreachable: 5,
  verification: 6,
  interrupted: 130,
  terminated: 143,
} as const

export const CLI_ERRORS = defineErrors({
  ERR_CLI_USAGE: {
    exit: EXIT.usage,
    doc: 'The command line is not understood. `commonpage COMMAND --help` shows what is expected.',
  },
  ERR_CLI_SERVER_URL: {
    exit: EXIT.usage,
    doc: 'The URL of the server is not an http:// or https:// URL. It comes from --server, COMMONPAGE_SERVER or the default.',
  },
  ERR_CLI_SERVER_UNREACHABLE: {
    exit: EXIT.unreachable,
    doc: 'Nothing answers at the URL of the server, or it hung up. Start one with `commonpage serve`, or name another with --server.',
  },
  ERR_CLI_BAD_RESPONSE: {
    exit: EXIT.failure,
    doc: 'The answer is not one of a commonpage server: another program or a proxy answers at that URL.',
  },
  ERR_CLI_NOT_READY: {
    exit: EXIT.failure,
    doc: 'The server answers, but one of its readiness checks fails. `commonpage health` names it.',
  },
  ERR_CLI_CONFIRMATION_REQUIRED: {
    exit: EXIT.refused,
    doc: 'The command removes something and nobody confirmed it. Add --yes where no terminal is there to ask.',
  },
  ERR_CLI_FILE_UNREADABLE: {
    exit: EXIT.notFound,
    doc: 'A local file cannot be read.',
  },
  ERR_CLI_FILE_CHANGED: {
    exit: EXIT.failure,
    doc: 'A file or a directory changed while it was sent. Nothing was imported.',
  },
  ERR_CLI_FILE_UNWRITABLE: {
    exit: EXIT.failure,
    doc: 'A local file cannot be written.',
  },
  ERR_CLI_DOWNLOAD: {
    exit: EXIT.verification,
    doc: 'What the server sent is not what was asked for, by its size or digest. Nothing was kept.',
  },
  ERR_CLI_PROGRAM_MISSING: {
    exit: EXIT.failure,
    doc: 'A program of this machine that the command needs is not installed.',
  },
  ERR_CLI_IMPORT_FAILED: {
    exit: EXIT.failure,
    doc: 'The server gave up an import without saying why. Its log does.',
  },
  ERR_CLI_NBD: {
    exit: EXIT.failure,
    doc: 'The NBD server refused the export that the demo reads, or broke the protocol.',
  },
  ERR_CLI_DOCTOR: {
    exit: EXIT.failure,
    doc: 'At least one check of `commonpage doctor` failed; each line says what to do.',
  },
  ERR_CLI_DEMO: {
    exit: EXIT.failure,
    doc: 'The demo could not be set up or did not show sharing.',
  },
})
