/**
 * The error tables of every module that a server's answer can name a code of. Loading this registers them
 * and nothing else. A thread that answers with errors of another one does so at its start; the command line when
 * there is an error to report, so that its exit codes are those of the documentation.
 */
import '../cache/errors.ts'
import '../erofs/errors.ts'
import '../images/errors.ts'
import '../oci/errors.ts'
import '../store/errors.ts'
import '../tar/errors.ts'
import './config/errors.ts'
import './errors.ts'
import './http/errors.ts'
