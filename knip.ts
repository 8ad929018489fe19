/**
 * What knip takes for used: the programs, each module's public face, tests, and modules that are started by
 * URL as threads or processes, which it cannot see by itself.
 */
import type { KnipConfig } from 'knip'

import { importsOf, sourceFiles } from './test/project/source-imports.ts'

const startedByUrl = ['src', 'test', 'bench']
  .flatMap(sourceFiles)
  .flatMap(importsOf)
  .filter(({ byUrl, target }) => byUrl && target?.endsWith('.ts') === true)
  .map(({ target }) => target ?? '')

const config: KnipConfig = {
  workspaces: {
    '.': {
      entry: [
        'src/cli/main.ts',
        'src/**/index.ts',
        'src/server/config.ts',
        'src/server/threads/*.ts',
        'scripts/*.{ts,js}',
        'bench/**/*.ts',
        'test/**/*.test.ts',
        ...new Set(startedByUrl),
      ],
      project: [
        '{src,scripts,test,bench,bin}/**/*.{ts,js}',
        '!src/nbd/**',
        '!src/dashboard/static/**',
      ],
    },
    'src/nbd': { project: ['**/*.ts'] },
  },
  // Run by npx, a plug-in of oxlint, and the types behind @fastify/websocket's own.
  ignoreDependencies: ['oxlint', 'oxlint-tsgolint', '@types/ws'],
  // Commands of Debian packages: scripts/debian-packages.ts.
  ignoreBinaries: ['.*'],
  ignoreExportsUsedInFile: true,
  // Registering the table is what they are for.
  ignoreIssues: { 'src/**/errors.ts': ['exports', 'types'] },
}

export default config
