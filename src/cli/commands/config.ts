/** `config check|print|schema`: settings without starting a server. */
import { checkConfigFile, configJsonSchema, loadConfig } from '../../server/config.ts'
import type { SettingValue } from '../../server/config.ts'
import type { Invocation } from '../invocation.ts'
import { renderTable } from '../render/table.ts'
import type { Column } from '../render/table.ts'
import type { ServerFlags } from './serve.ts'

/** @throws ERR_CONFIG_INVALID, ERR_CONFIG_INSECURE, ERR_CONFIG_UNREADABLE */
export async function runConfigCheck(invocation: Invocation, file: string): Promise<void> {
  const { output } = invocation
  const { settings } = await checkConfigFile(file)
  const set = settings.filter(({ origin }) => origin !== 'default').length
  if (invocation.json) return output.printJson({ file, valid: true, settings: set })
  output.say(`${file} is valid: ${set} of ${settings.length} settings are set`)
}

export async function runConfigPrint(
  invocation: Invocation,
  options: ServerFlags & { readonly origin?: boolean },
): Promise<void> {
  const { context, output } = invocation
  const file = options.config ?? context.env['COMMONPAGE_CONFIG']
  const { settings } = await loadConfig({
    flags: options.flags,
    env: context.env,
    ...(file === undefined ? {} : { file }),
  })
  if (invocation.json) {
    return output.printJson(
      Object.fromEntries(
        settings.map(({ path, value, origin }) => [path, { value: value ?? null, origin }]),
      ),
    )
  }
  const columns: Column<SettingValue>[] = [
    { header: 'setting', value: ({ path }) => path },
    { header: 'value', value: ({ value }) => value ?? '-' },
  ]
  if (options.origin === true) columns.push({ header: 'origin', value: ({ origin }) => origin })
  await output.print(renderTable(columns, settings, { style: output.style }))
}

export async function runConfigSchema(invocation: Invocation): Promise<void> {
  await invocation.output.printJson(configJsonSchema())
}
