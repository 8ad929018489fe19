/**
 * The settings of a server: what they are called, where they come from and what they must satisfy. The
 * public face of `config/`; nothing outside reads settings from files or the environment.
 */
export { deriveConfig, formatAddress, isLoopback } from './config/derive.ts'
export type { ListenAddress, ServerConfig } from './config/derive.ts'
export { CONFIG_ERRORS } from './config/errors.ts'
export { readHostFacts } from './config/host-facts.ts'
export type { HostFacts } from './config/host-facts.ts'
export { configJsonSchema } from './config/schema.ts'
export { environmentName, SETTINGS } from './settings.ts'
export type { Setting, SettingKind, SettingPath } from './settings.ts'
export { checkConfigFile, loadConfig } from './config/load.ts'
export type { LoadedConfig, LoadOptions, SettingValue } from './config/load.ts'
