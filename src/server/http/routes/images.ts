/** The routes of images as records: domains, lists, what a reference names, tags. No bytes of images here. */
import { Type } from 'typebox'

import { formatRef, isDomain, parseRef, AppError } from '../../../core/index.ts'
import type { App, HttpContext } from '../context.ts'
import {
  evaluatePreconditions,
  imageEtag,
  preconditionFailed,
  preconditionsOf,
} from '../conditional.ts'
import { operation } from '../context.ts'
import { INNER_ROUTES, parseImagePath, pathOf } from '../data-target.ts'
import { DEFAULT_PAGE, MAX_PAGE } from '../limits.ts'
import { DomainList, Image, ImageList, TagRequest } from '../schemas.ts'

const ImagesQuery = Type.Object({
  domain: Type.Optional(Type.String({ description: 'only images of this domain' })),
  cursor: Type.Optional(
    Type.String({ maxLength: 1024, description: 'nextCursor of the page before' }),
  ),
  limit: Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: MAX_PAGE,
      description: `images of a page, ${DEFAULT_PAGE} by default`,
    }),
  ),
})
const REF_PARAM = {
  ref: 'DOMAIN/NAME[:TAG] or DOMAIN/NAME@sha256:HEX; its slashes stay as they are',
}

/** Of what changes a tag. */
const CHANGE_ERRORS = ['ERR_REF_CONFLICT', 'ERR_HTTP_PRECONDITION_FAILED']

export function registerImageRoutes(app: App, context: HttpContext): void {
  const { control } = context
  app.route({
    ...operation('listDomains', { responses: { 200: DomainList } }),
    handler: async () => ({ domains: await control.domains() }),
  })
  app.route({
    ...operation('listImages', { responses: { 200: ImageList }, errors: ['ERR_REF_INVALID'] }),
    schema: { querystring: ImagesQuery },
    handler: (request) => {
      const { domain, cursor, limit = DEFAULT_PAGE } = request.query
      return control.images({
        limit,
        ...(domain === undefined ? {} : { domain: checkDomain(domain) }),
        ...(cursor === undefined ? {} : { cursor }),
      })
    },
  })
  app.route({
    ...operation(
      'getImage',
      {
        responses: { 200: Image, 304: 'Not modified' },
        errors: ['ERR_REF_INVALID', 'ERR_IMAGE_NOT_FOUND', 'ERR_HTTP_PRECONDITION_FAILED'],
        pathParams: REF_PARAM,
        conditions: 'read',
      },
      INNER_ROUTES.image,
    ),
    handler: async (request, reply) => {
      const image = await control.image(parseImagePath(pathOf(request.originalUrl)))
      const etag = imageEtag(image.digest)
      const outcome = evaluatePreconditions(request.headers, etag)
      if (outcome === 'failed') throw preconditionFailed('if-match', etag)
      void reply.header('ETag', etag).header('Cache-Control', 'no-cache')
      return outcome === 'not-modified' ? reply.code(304).send() : image
    },
  })
  app.route({
    ...operation(
      'tagImage',
      {
        responses: { 200: Image },
        errors: ['ERR_REF_INVALID', 'ERR_IMAGE_NOT_FOUND', ...CHANGE_ERRORS],
        pathParams: { ref: 'DOMAIN/NAME[:TAG]: the tag that is to name the image' },
        conditions: 'change',
      },
      INNER_ROUTES.image,
    ),
    schema: { body: TagRequest },
    handler: (request) => {
      const ref = parseImagePath(pathOf(request.originalUrl))
      if (ref.digest !== undefined) throw digestRef(formatRef(ref))
      return control.tag(ref, parseRef(request.body.from), preconditionsOf(request.headers))
    },
  })
  app.route({
    ...operation(
      'deleteImage',
      {
        description: 'The image stays readable by digest until nobody uses it.',
        responses: { 204: 'Removed' },
        errors: ['ERR_REF_INVALID', 'ERR_IMAGE_NOT_FOUND', ...CHANGE_ERRORS],
        pathParams: { ref: 'DOMAIN/NAME[:TAG]' },
        conditions: 'change',
      },
      INNER_ROUTES.image,
    ),
    handler: async (request, reply) => {
      const ref = parseImagePath(pathOf(request.originalUrl))
      await control.remove(ref, preconditionsOf(request.headers))
      return reply.code(204).send()
    },
  })
}

/** @throws ERR_REF_INVALID */
export function checkDomain(domain: string): string {
  if (isDomain(domain)) return domain
  throw new AppError('ERR_REF_INVALID', `'${domain}' is not a domain`)
}

function digestRef(ref: string): AppError {
  return new AppError('ERR_REF_INVALID', `'${ref}' names a digest, only tags can be set`, {
    hint: 'PUT /v1/images/DOMAIN/NAME:TAG with {"from": "DOMAIN/NAME@sha256:HEX"}',
  })
}
