/** `doctor`: looks at this machine as a server and as a client would need it; each finding says what to do. */
import { AppError } from '../../core/index.ts'
import { loadConfig } from '../../server/config.ts'
import { checkClient } from '../doctor/client-checks.ts'
import type { Finding, Level } from '../doctor/finding.ts'
import { checkServer } from '../doctor/server-checks.ts'
import type { Invocation } from '../invocation.ts'
import type { Style } from '../render/style.ts'
import { padEnd, plural } from '../render/text.ts'
import type { ServerFlags } from './serve.ts'

export async function runDoctor(invocation: Invocation, options: ServerFlags): Promise<void> {
  const { context, output } = invocation
  const file = options.config ?? context.env['COMMONPAGE_CONFIG']
  const { config } = await loadConfig({
    flags: options.flags,
    env: context.env,
    ...(file === undefined ? {} : { file }),
  })
  const server = await checkServer(config)
  const client = await checkClient(context.env)
  const failures = [...server, ...client].filter(({ level }) => level === 'fail').length
  if (invocation.json) {
    await output.printJson({ ok: failures === 0, server, client })
  } else {
    const sections = [
      output.style.bold('as a server'),
      ...server.map((finding) => renderFinding(finding, output.style)),
      '',
      output.style.bold('as a client'),
      ...client.map((finding) => renderFinding(finding, output.style)),
    ]
    await output.print(sections.join('\n'))
  }
  if (failures > 0) throw new AppError('ERR_CLI_DOCTOR', `${plural(failures, 'check')} failed`)
}

const LEVEL_WIDTH = 4
const NAME_WIDTH = 16

export function renderFinding(finding: Finding, style: Style): string {
  const paint: Readonly<Record<Level, (text: string) => string>> = {
    ok: style.green,
    warn: style.yellow,
    fail: style.red,
  }
  const level = paint[finding.level](padEnd(finding.level, LEVEL_WIDTH))
  const line = `${level}  ${padEnd(finding.name, NAME_WIDTH)}  ${finding.detail}`
  if (finding.fix === undefined) return line
  return `${line}\n${' '.repeat(LEVEL_WIDTH + NAME_WIDTH + 4)}${style.cyan('fix:')} ${finding.fix}`
}
