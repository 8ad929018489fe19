/** Stands in for the import process: behaves as the message that starts it says. */
process.once('message', (task: { behave: string; report?: unknown }) => {
  const end = (message: object): void => {
    process.send?.(message)
    process.disconnect()
  }
  switch (task.behave) {
    case 'done':
      process.send?.({ type: 'progress', phase: 'cutting', doneBytes: 5, totalBytes: 10 })
      return end({ type: 'done', report: task.report })
    case 'fail':
      return end({
        type: 'failed',
        error: { code: 'ERR_EROFS_BAD_MAGIC', message: 'no image', hint: 'look' },
      })
    case 'hang':
      process.once('SIGTERM', () =>
        end({ type: 'failed', error: { code: 'ERR_ABORTED', message: 'cancelled' } }),
      )
      break
    case 'deaf':
      process.on('SIGTERM', () => undefined)
      break
    case 'exit':
      process.exit(3)
      break
    case 'killed':
      process.kill(process.pid, 'SIGKILL')
      break
    case 'linger':
      process.send?.({ type: 'done', report: task.report })
      break
  }
  process.send?.({ type: 'progress', phase: task.behave, doneBytes: process.pid, totalBytes: 0 })
  setInterval(() => undefined, 1000)
})
