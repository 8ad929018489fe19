/** Error codes of the configuration. */
import { defineErrors } from '../../core/index.ts'

export const CONFIG_ERRORS = defineErrors({
  ERR_CONFIG_INVALID: {
    exit: 2,
    doc: 'A setting is unknown, has a value of the wrong form, or contradicts another one. `commonpage config check FILE` names each place.',
  },
  ERR_CONFIG_UNREADABLE: {
    exit: 2,
    doc: 'The configuration file cannot be read, or is not YAML (.yaml, .yml) or JSON (.json).',
  },
  ERR_CONFIG_INSECURE: {
    exit: 2,
    doc: 'The server would listen on an address that other machines reach, without authentication. Bind a loopback address, or pass --insecure on a network that you trust.',
  },
})
