/** `completion`: static scripts for bash, zsh and fish, generated from the command tree. */
import type { Command, Option } from 'commander'

interface Node {
  /** Words after the program's name. */
  readonly path: readonly string[]
  readonly description: string
  readonly commands: readonly { readonly name: string; readonly description: string }[]
  readonly options: readonly Completable[]
  /** Values of the first argument, when they are a closed set. */
  readonly choices: readonly string[]
}

interface Completable {
  readonly long: string
  readonly short: string | undefined
  readonly description: string
  readonly takesValue: boolean
  readonly choices: readonly string[]
}

const PROGRAM = 'commonpage'

export function renderCompletion(program: Command, shell: string): string {
  const nodes = collect(program, [], globalOptions(program))
  if (shell === 'bash') return bash(nodes)
  if (shell === 'zsh') return zsh(nodes)
  return fish(nodes)
}

function globalOptions(program: Command): Completable[] {
  const help = {
    long: '--help',
    short: '-h',
    description: 'show help',
    takesValue: false,
    choices: [],
  }
  return [...program.options.map(completable), help]
}

function collect(
  command: Command,
  path: readonly string[],
  inherited: readonly Completable[],
): Node[] {
  const own = command.parent === null ? [] : command.options.map(completable)
  const node: Node = {
    path,
    description: command.description(),
    commands: command.commands.map((child) => ({
      name: child.name(),
      description: child.description(),
    })),
    options: [...own, ...inherited],
    choices: command.registeredArguments[0]?.argChoices ?? [],
  }
  return [
    node,
    ...command.commands.flatMap((child) => collect(child, [...path, child.name()], inherited)),
  ]
}

function completable(option: Option): Completable {
  return {
    long: option.long ?? '',
    short: option.short,
    description: option.description,
    takesValue: option.required || option.optional,
    choices: option.argChoices ?? [],
  }
}

function wordsOf(node: Node): string[] {
  return [...node.commands.map(({ name }) => name), ...node.choices]
}

function bash(nodes: readonly Node[]): string {
  const cases = nodes.map(
    (node) =>
      `    '${node.path.join(' ')}') words='${wordsOf(node).join(' ')}' options='${node.options.map(({ long }) => long).join(' ')}' ;;`,
  )
  const values = withChoices(nodes).map(
    ([long, choices]) =>
      `    ${long}) COMPREPLY=($(compgen -W '${choices.join(' ')}' -- "$current")); return ;;`,
  )
  return `# bash completion for ${PROGRAM}
_${PROGRAM}() {
  local current="\${COMP_WORDS[COMP_CWORD]}" previous="\${COMP_WORDS[COMP_CWORD-1]}"
  local path='' words='' options='' candidate i
  COMPREPLY=()
  case "$previous" in
${values.join('\n')}
    ${valuedOptions(nodes).join('|')}) COMPREPLY=($(compgen -f -- "$current")); return ;;
  esac
  for ((i = 1; i < COMP_CWORD; i++)); do
    candidate="\${path:+$path }\${COMP_WORDS[i]}"
    case "$candidate" in
      ${commandPaths(nodes).join('|')}) path="$candidate" ;;
    esac
  done
  case "$path" in
${cases.join('\n')}
  esac
  if [[ "$current" == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$current"))
  elif [[ -n "$words" ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$current"))
  else
    COMPREPLY=($(compgen -f -- "$current"))
  fi
}
complete -o filenames -F _${PROGRAM} ${PROGRAM}`
}

function zsh(nodes: readonly Node[]): string {
  const cases = nodes.map((node) => {
    const commands = node.commands.map(({ name, description }) => zshItem(name, description))
    const choices = node.choices.map((choice) => zshItem(choice, ''))
    const options = node.options.map(({ long, description }) => zshItem(long, description))
    return `    '${node.path.join(' ')}') items=(${[...commands, ...choices].join(' ')}); options=(${options.join(' ')}) ;;`
  })
  const values = withChoices(nodes).map(
    ([long, choices]) => `    ${long}) compadd -- ${choices.join(' ')}; return ;;`,
  )
  return `#compdef ${PROGRAM}
_${PROGRAM}() {
  local command_path='' candidate word
  local -a items options
  case "\${words[CURRENT-1]}" in
${values.join('\n')}
    ${valuedOptions(nodes).join('|')}) _files; return ;;
  esac
  for word in "\${(@)words[2,CURRENT-1]}"; do
    candidate="\${command_path:+$command_path }$word"
    case "$candidate" in
      ${commandPaths(nodes).join('|')}) command_path="$candidate" ;;
    esac
  done
  case "$command_path" in
${cases.join('\n')}
  esac
  if [[ "\${words[CURRENT]}" == -* ]]; then
    _describe 'option' options
  elif (( \${#items} )); then
    _describe 'command' items
  else
    _files
  fi
}
if [ "$funcstack[1]" = '_${PROGRAM}' ]; then _${PROGRAM} "$@"; else compdef _${PROGRAM} ${PROGRAM}; fi`
}

function zshItem(name: string, description: string): string {
  const escaped = description.replaceAll(':', '\\:').replaceAll("'", "'\\''")
  return description === '' ? `'${name}'` : `'${name}:${escaped}'`
}

function fish(nodes: readonly Node[]): string {
  const lines = [
    `# fish completion for ${PROGRAM}`,
    `function __${PROGRAM}_at`,
    `  set -l path ''`,
    `  for word in (commandline -opc)[2..-1]`,
    `    switch (string trim -- "$path $word")`,
    `      case ${commandPaths(nodes).join(' ')}`,
    `        set path (string trim -- "$path $word")`,
    `    end`,
    `  end`,
    `  test "$path" = "$argv"`,
    `end`,
  ]
  for (const node of nodes) {
    const at = `complete -c ${PROGRAM} -n '__${PROGRAM}_at ${node.path.join(' ')}'`
    for (const { name, description } of node.commands) {
      lines.push(`${at} -f -a ${name} -d '${fishEscape(description)}'`)
    }
    for (const choice of node.choices) lines.push(`${at} -f -a ${choice}`)
    for (const { long, short, description, takesValue, choices } of node.options) {
      const letter = short === undefined ? '' : ` -s ${short.slice(1)}`
      const value = takesValue ? ' -r' : ''
      const closed = choices.length === 0 ? '' : ` -f -a '${choices.join(' ')}'`
      lines.push(
        `${at}${letter} -l ${long.slice(2)}${value}${closed} -d '${fishEscape(description)}'`,
      )
    }
  }
  return lines.join('\n')
}

function fishEscape(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")
}

/** Quoted, for `case`. */
function commandPaths(nodes: readonly Node[]): string[] {
  return nodes.filter(({ path }) => path.length > 0).map(({ path }) => `'${path.join(' ')}'`)
}

/** Options whose value is not of a closed set: files are offered. */
function valuedOptions(nodes: readonly Node[]): string[] {
  const options = nodes.flatMap((node) => node.options)
  const open = options.filter(({ takesValue, choices }) => takesValue && choices.length === 0)
  return [...new Set(open.map(({ long }) => long))]
}

function withChoices(nodes: readonly Node[]): [string, readonly string[]][] {
  const found = new Map<string, readonly string[]>()
  for (const { options } of nodes) {
    for (const { long, choices } of options) if (choices.length > 0) found.set(long, choices)
  }
  return [...found]
}
