/**
 * The command tree: names, arguments, options and help texts of every command. Each action imports its
 * command's module when it runs, so that the tree costs little to build; nothing is done here.
 */
import { Argument, Command, Option } from 'commander'

import { DEFAULT_SERVER, SERVER_VARIABLE } from './api/client.ts'
import type { CliContext } from './context.ts'
import { examples, jsonOption } from './help.ts'
import { Invocation } from './invocation.ts'
import type { CommandOptions, Invoke } from './invocation.ts'
import { parseCount, parseIntervalOption, repeatable } from './option-values.ts'
import { PROGRESS_MODES } from './render/progress.ts'
import { addConfigCommand, addDoctorCommand, addServeCommand } from './server-commands.ts'

export interface ProgramOptions {
  readonly context: CliContext
  readonly version: string
  /** `--help` was asked for rather than `-h`. */
  readonly fullHelp: boolean
}

/** First screen of `commonpage` alone. */
export const FIRST_SCREEN = `commonpage serves EROFS images as NBD disks and HTTP ranges, from one page cache that related images share.

  commonpage demo                                  two images, one memory, in a minute
  commonpage serve --data ./data                   start a server
  commonpage import erofs FILE demo/base:1         bring an image to it

commonpage --help lists all commands; the guide is docs/guide/get-started.md
`

const REF_HELP = 'DOMAIN/NAME[:TAG|@sha256:HEX]'

export function buildProgram(options: ProgramOptions): Command {
  const program = new Command('commonpage')
    .description('A central EROFS image server: NBD and HTTP from one page cache per domain.')
    .version(options.version, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'show help; --help shows all of it')
    .helpCommand('help [COMMAND]', 'show the help of a command')
    .option(
      '--server <URL>',
      `server to talk to (environment: ${SERVER_VARIABLE}, default: ${DEFAULT_SERVER})`,
    )
    .option('-q, --quiet', 'only results and errors')
    .option('--no-color', 'no colours (also: NO_COLOR)')
    .configureHelp({ showGlobalOptions: true, sortSubcommands: false })
    .showSuggestionAfterError(true)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => options.context.stdout.write(text),
      writeErr: (text) => options.context.stderr.write(text),
      // usage errors are printed with all others, by run.ts
      outputError: () => undefined,
      getOutHelpWidth: () => options.context.stdout.columns ?? 100,
      getErrHelpWidth: () => options.context.stderr.columns ?? 100,
    })
  const invoke = (command: Command): Invocation =>
    new Invocation(options.context, command.optsWithGlobals<CommandOptions>())
  addServeCommand(program, invoke)
  addImport(program, invoke)
  addImage(program, invoke)
  addReports(program, invoke)
  addDoctorCommand(program, invoke)
  addConfigCommand(program, invoke)
  addDemo(program, invoke)
  addCompletion(program, invoke)
  if (options.fullHelp) addDetails(program)
  return program
}

function addImport(program: Command, invoke: Invoke): void {
  const group = program.command('import').description('bring an image into the store')
  const erofs = importCommand(
    group,
    'erofs',
    'import an EROFS image, with the devices that it refers to',
    [
      'commonpage import erofs base.erofs demo/base:1',
      'commonpage import erofs meta.erofs --device data.blob demo/app:2',
    ],
    ['<FILE>', 'the image: its first device'],
  )
    .option('--device <FILE>', 'an extra device; repeat it in slot order', repeatable)
    .action(async (file: string, ref: string) => {
      const { runImportErofs } = await import('./commands/import-erofs.ts')
      await runImportErofs(invoke(erofs), file, ref, erofs.opts())
    })
  const dir = importCommand(
    group,
    'dir',
    'make an image of a directory: what is in it, at the root of the image',
    ['commonpage import dir ./rootfs demo/base:1'],
    ['<DIR>', 'the directory; GNU tar reads it'],
  ).action(async (directory: string, ref: string) => {
    const { runImportDir } = await import('./commands/import-dir.ts')
    await runImportDir(invoke(dir), directory, ref, dir.opts())
  })
  const oci = importCommand(
    group,
    'oci',
    'make an image of an OCI or docker image: its layers on each other, with its configuration',
    [
      'commonpage import oci ./layout:latest apps/web:1',
      'podman save --format oci-archive web > web.tar; commonpage import oci web.tar apps/web:1',
    ],
    ['<LAYOUT[:TAG]>', 'an OCI layout, or an archive of one, or of docker save'],
  )
    .option('--platform <OS/ARCH>', "of an image for several platforms (default: the server's)")
    .action(async (source: string, ref: string) => {
      const { runImportOci } = await import('./commands/import-oci.ts')
      await runImportOci(invoke(oci), source, ref, oci.opts())
    })
  const tar = importCommand(
    group,
    'tar',
    'make an image of the tree in a tar archive: plain, or of gzip, zstd or xz',
    [
      'commonpage import tar rootfs.tar.gz demo/base:1',
      'git archive HEAD | commonpage import tar - demo/sources:1',
    ],
    ['<FILE>', 'the archive; - is standard input'],
  ).action(async (file: string, ref: string) => {
    const { runImportTar } = await import('./commands/import-tar.ts')
    await runImportTar(invoke(tar), file, ref, tar.opts())
  })
}

function importCommand(
  group: Command,
  name: string,
  description: string,
  lines: readonly string[],
  source: readonly [string, string],
): Command {
  return group
    .command(name)
    .description(description)
    .addHelpText('before', examples(...lines))
    .argument(...source)
    .argument('<REF>', REF_HELP)
    .addOption(progressOption())
    .addOption(jsonOption())
}

function progressOption(): Option {
  return new Option('--progress <MODE>', 'how progress is shown on stderr')
    .choices([...PROGRESS_MODES])
    .default('auto')
}

function addImage(program: Command, invoke: Invoke): void {
  const group = program.command('image').description('look at images and name them')
  const list: Command = group
    .command('ls')
    .description('list images: LOGICAL is what their files say, SIZE the bytes of their devices')
    .option('--domain <DOMAIN>', 'only those of one domain')
    .addOption(jsonOption())
    .action(async () => {
      const { runImageLs } = await import('./commands/image-ls.ts')
      await runImageLs(invoke(list), list.opts())
    })
  const show: Command = group
    .command('show')
    .description('show everything that is known of an image')
    .argument('<REF>', REF_HELP)
    .addOption(jsonOption())
    .action(async (ref: string) => {
      const { runImageShow } = await import('./commands/image-show.ts')
      await runImageShow(invoke(show), ref)
    })
  const remove: Command = group
    .command('rm')
    .description('remove names of images')
    .addHelpText('before', examples('commonpage image rm --dry-run demo/base:1'))
    .argument('<REF...>', REF_HELP)
    .option('-y, --yes', 'do not ask')
    .option('--dry-run', 'only say what would be removed')
    .addOption(jsonOption())
    .action(async (refs: string[]) => {
      const { runImageRm } = await import('./commands/image-rm.ts')
      await runImageRm(invoke(remove), refs, remove.opts())
    })
  const tag: Command = group
    .command('tag')
    .description('give an image another name')
    .addHelpText('before', examples('commonpage image tag demo/base:1 demo/base:stable'))
    .argument('<SOURCE>', REF_HELP)
    .argument('<TARGET>', 'DOMAIN/NAME[:TAG]')
    .addOption(jsonOption())
    .action(async (source: string, target: string) => {
      const { runImageTag } = await import('./commands/image-tag.ts')
      await runImageTag(invoke(tag), source, target)
    })
  const tree: Command = group
    .command('tree')
    .description('show the files of an image as a tree')
    .addHelpText('before', examples('commonpage image tree demo/base:1 usr/lib --depth 2'))
    .argument('<REF>', REF_HELP)
    .argument('[PATH]', 'a directory inside; bytes that are not UTF-8 as %HH, % as %25')
    .option('--depth <N>', 'levels below the start', parseCount, 3)
    .option('--limit <N>', 'entries in total', parseCount, 1000)
    .addOption(jsonOption())
    .action(async (ref: string, path?: string) => {
      const { runImageTree } = await import('./commands/image-tree.ts')
      await runImageTree(invoke(tree), ref, path, tree.opts())
    })
  const exported: Command = group
    .command('export')
    .description('write an image to a file that mount, fsck.erofs and others take')
    .addHelpText(
      'before',
      examples(
        'commonpage image export demo/base:1 base.erofs',
        'commonpage image export demo/app:2 app.erofs --devices',
      ),
    )
    .argument('<REF>', REF_HELP)
    .argument('<FILE>', 'what is written; zeros become holes')
    .option('--devices', 'each device as a file of its own: FILE, FILE.1, FILE.2, …')
    .addOption(progressOption())
    .addOption(jsonOption())
    .action(async (ref: string, file: string) => {
      const { runImageExport } = await import('./commands/image-export.ts')
      await runImageExport(invoke(exported), ref, file, exported.opts())
    })
  const cat: Command = group
    .command('cat')
    .description('write a file of an image to stdout')
    .addHelpText('before', examples('commonpage image cat demo/base:1 etc/os-release'))
    .argument('<REF>', REF_HELP)
    .argument('<PATH>', 'a file inside; bytes that are not UTF-8 as %HH, % as %25')
    .action(async (ref: string, path: string) => {
      const { runImageCat } = await import('./commands/image-cat.ts')
      await runImageCat(invoke(cat), ref, path)
    })
}

function addReports(program: Command, invoke: Invoke): void {
  const du: Command = program
    .command('du')
    .description('what images say, store, share and hold in memory')
    .option('--domain <DOMAIN>', 'only images of one domain')
    .addOption(jsonOption())
    .action(async () => {
      const { runDu } = await import('./commands/du.ts')
      await runDu(invoke(du), du.opts())
    })
  const sharing: Command = program
    .command('sharing')
    .description('what readers of each image touched, and what it added to memory')
    .addHelpText(
      'before',
      examples('commonpage sharing --watch', 'commonpage sharing --reset    start counting anew'),
    )
    .option('--domain <DOMAIN>', 'only images of one domain')
    .option('-w, --watch', 'draw it again and again (with --json: one line each)')
    .addOption(
      new Option('--interval <TIME>', 'time between two tables of --watch')
        .argParser(parseIntervalOption)
        .default(1000, '1s'),
    )
    .addOption(new Option('--reset', 'start a new epoch').conflicts('watch'))
    .addOption(jsonOption())
    .action(async () => {
      const { runSharing } = await import('./commands/sharing.ts')
      await runSharing(invoke(sharing), sharing.opts())
    })
  const health: Command = program
    .command('health')
    .description('exit 0 when the server is ready, 1 when not, 5 when unreachable')
    .addOption(jsonOption())
    .action(async () => {
      const { runHealth } = await import('./commands/health.ts')
      await runHealth(invoke(health))
    })
}

function addDemo(program: Command, invoke: Invoke): void {
  const demo: Command = program
    .command('demo')
    .description('build, import and read two related images, and show what they share')
    .option('--exit', 'end after the table instead of serving until Ctrl-C')
    .action(async () => {
      const { runDemo } = await import('./commands/demo.ts')
      await runDemo(invoke(demo), demo.opts())
    })
}

function addCompletion(program: Command, invoke: Invoke): void {
  const completion: Command = program
    .command('completion')
    .description('print a completion script')
    .addHelpText(
      'before',
      examples(
        'source <(commonpage completion bash)',
        'commonpage completion fish > ~/.config/fish/completions/commonpage.fish',
      ),
    )
    .addArgument(new Argument('<SHELL>', 'of which shell').choices(['bash', 'zsh', 'fish']))
    .action(async (shell: string) => {
      const { renderCompletion } = await import('./commands/completion.ts')
      await invoke(completion).output.print(renderCompletion(program, shell))
    })
}

function addDetails(program: Command): void {
  program.addHelpText(
    'after',
    `
References: DOMAIN/NAME[:TAG|@sha256:HEX]; no tag means latest, and a domain is never guessed.
Results go to stdout, everything else to stderr.

Exit codes: 0 ok, 1 failure, 2 usage or configuration, 3 not found, 4 refused or conflict,
            5 server unreachable, 6 verification failed, 130 interrupted, 143 terminated.`,
  )
}
