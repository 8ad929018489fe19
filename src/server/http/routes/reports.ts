/** Read-only reports on what is stored, shared and going on, and the jobs of imports. */
import { Type } from 'typebox'

import type { App, HttpContext } from '../context.ts'
import { operation } from '../context.ts'
import { parseWait, waitForJob } from '../job-wait.ts'
import { DiskUsage, Job, JobList, Sharing, Stats } from '../schemas.ts'
import { checkDomain } from './images.ts'

const DomainQuery = Type.Object({
  domain: Type.Optional(Type.String({ description: 'only this domain' })),
})
const JobParams = Type.Object({ id: Type.String({ maxLength: 128 }) })
const JobQuery = Type.Object({
  wait: Type.Optional(
    Type.String({ description: 'true, or a duration such as 30s: answer when the job has ended' }),
  ),
})
const JOB_PARAM = { id: 'id of the job' }

export function registerReportRoutes(app: App, context: HttpContext): void {
  const { control } = context
  app.route({
    ...operation('getSharing', { responses: { 200: Sharing }, errors: ['ERR_REF_INVALID'] }),
    schema: { querystring: DomainQuery },
    handler: (request) => control.sharing(domainOf(request.query)),
  })
  app.route({
    ...operation('resetSharing', { responses: { 200: Sharing } }),
    handler: () => control.resetSharing(),
  })
  app.route({
    ...operation('getDiskUsage', { responses: { 200: DiskUsage }, errors: ['ERR_REF_INVALID'] }),
    schema: { querystring: DomainQuery },
    handler: (request) => control.diskUsage(domainOf(request.query)),
  })
  app.route({
    ...operation('getStats', { responses: { 200: Stats } }),
    handler: () => control.stats(),
  })
  app.route({
    ...operation('listJobs', { responses: { 200: JobList } }),
    handler: async () => ({ jobs: await control.jobs() }),
  })
  app.route({
    ...operation('getJob', {
      responses: { 200: Job },
      errors: ['ERR_JOB_NOT_FOUND'],
      pathParams: JOB_PARAM,
    }),
    schema: { params: JobParams, querystring: JobQuery },
    handler: async (request, reply) => {
      const waitMs = parseWait(request.query.wait)
      const job = await control.job(request.params.id)
      return waitMs === 0 ? job : waitForJob(context, reply, job, waitMs)
    },
  })
  app.route({
    ...operation('cancelJob', {
      responses: { 200: Job },
      errors: ['ERR_JOB_NOT_FOUND'],
      pathParams: JOB_PARAM,
    }),
    schema: { params: JobParams },
    handler: (request) => control.cancelJob(request.params.id),
  })
}

function domainOf(query: { domain?: string }): { domain?: string } {
  return query.domain === undefined ? {} : { domain: checkDomain(query.domain) }
}
