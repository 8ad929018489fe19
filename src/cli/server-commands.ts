/**
 * The part of the command tree that takes the server's settings as flags: serve, doctor, config. The flags
 * come from the table of settings; what a value must be is checked where the configuration is loaded.
 */
import { Option } from 'commander'
import type { Command } from 'commander'

import { SETTING_PATHS, SETTINGS } from '../server/settings.ts'
import type { Setting, SettingPath } from '../server/settings.ts'
import type { ServerFlags } from './commands/serve.ts'
import { examples, jsonOption } from './help.ts'
import type { Invoke } from './invocation.ts'

export function addServeCommand(program: Command, invoke: Invoke): void {
  const command: Command = addSettings(
    program
      .command('serve')
      .description('start a server')
      .addHelpText(
        'before',
        examples(
          'commonpage serve --data /var/lib/commonpage',
          'commonpage serve --cache-size 4GiB --workers 4 --config commonpage.yaml',
        ),
      ),
  ).action(async () => {
    const { runServe } = await import('./commands/serve.ts')
    await runServe(invoke(command), serverFlags(command))
  })
}

export function addDoctorCommand(program: Command, invoke: Invoke): void {
  const command: Command = addSettings(
    program
      .command('doctor')
      .description('check this machine as a server and as a client; takes the flags of serve'),
  )
    .addOption(jsonOption())
    .action(async () => {
      const { runDoctor } = await import('./commands/doctor.ts')
      await runDoctor(invoke(command), serverFlags(command))
    })
}

export function addConfigCommand(program: Command, invoke: Invoke): void {
  const group = program.command('config').description('settings of a server')
  const check: Command = group
    .command('check')
    .description('exit 0 when a configuration file is valid, else say what is wrong where')
    .argument('<FILE>', 'YAML (.yaml, .yml) or JSON (.json)')
    .addOption(jsonOption())
    .action(async (file: string) => {
      const { runConfigCheck } = await import('./commands/config.ts')
      await runConfigCheck(invoke(check), file)
    })
  const print: Command = addSettings(
    group
      .command('print')
      .description('print the settings that serve would run with; takes the flags of serve')
      .addHelpText('before', examples('commonpage config print --origin --config commonpage.yaml')),
  )
    .option('--origin', 'also where each value comes from')
    .addOption(jsonOption())
    .action(async () => {
      const { runConfigPrint } = await import('./commands/config.ts')
      const origin = print.opts<{ origin?: boolean }>().origin === true
      await runConfigPrint(invoke(print), { ...serverFlags(print), origin })
    })
  const schema: Command = group
    .command('schema')
    .description('print the JSON Schema of the configuration file, for editors')
    .action(async () => {
      const { runConfigSchema } = await import('./commands/config.ts')
      await runConfigSchema(invoke(schema))
    })
}

function addSettings(command: Command): Command {
  command.option('--config <FILE>', 'configuration file (environment: COMMONPAGE_CONFIG)')
  for (const path of SETTING_PATHS) {
    const setting: Setting = SETTINGS[path]
    const value = setting.placeholder === undefined ? '' : ` <${setting.placeholder}>`
    const shown = setting.default === undefined ? '' : ` (default: ${String(setting.default)})`
    // no commander default: a value that was not typed must not outrank environment and file
    if (setting.default === true) {
      command.addOption(new Option(`--no-${setting.flag}`, `do not ${setting.doc}`))
    } else {
      const note = setting.kind === 'boolean' ? '' : shown
      const option = new Option(`--${setting.flag}${value}`, setting.doc + note)
      command.addOption(setting.choices === undefined ? option : option.choices(setting.choices))
    }
  }
  return command
}

/** The settings that were typed as flags. */
function serverFlags(command: Command): ServerFlags {
  const options = command.opts<Record<string, string | boolean | undefined>>()
  const flags: Partial<Record<SettingPath, string | boolean>> = {}
  for (const path of SETTING_PATHS) {
    const attribute = new Option(`--${SETTINGS[path].flag}`).attributeName()
    const value = options[attribute]
    if (value !== undefined && command.getOptionValueSource(attribute) === 'cli')
      flags[path] = value
  }
  const config = options['config']
  return typeof config === 'string' ? { config, flags } : { flags }
}
