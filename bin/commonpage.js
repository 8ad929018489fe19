#!/usr/bin/env node
/**
 * The installed package's command. Old syntax, so that an old Node can read it and explain; the program
 * itself is dist/cli/main.js. From a checkout use ./commonpage instead.
 */
if (parseInt(process.versions.node, 10) < 24) {
  process.stderr.write(
    'commonpage: Node ' +
      process.versions.node +
      ' is too old, Node >= 24 is needed\nSee https://nodejs.org for how to install it.\n',
  )
  process.exitCode = 1
} else {
  // Read once, by the first use of libuv's pool, which is after this line.
  process.env.UV_THREADPOOL_SIZE = process.env.UV_THREADPOOL_SIZE || '8'
  void import('../dist/cli/main.js')
}
