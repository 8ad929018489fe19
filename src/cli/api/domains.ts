/** What domains there are, for lists that turn out to be empty. */
import { closestNames, isAppError } from '../../core/index.ts'
import type { ApiClient } from './client.ts'

/**
 * Says that a domain holds nothing because there is none of this name, with those that it may have been meant
 * to be. Undefined when the domain is there, or nobody can say.
 */
export async function unknownDomain(
  client: ApiClient,
  domain: string,
): Promise<string | undefined> {
  let domains: readonly string[]
  try {
    ;({ domains } = await client.json<{ domains: string[] }>('/v1/domains'))
  } catch (error) {
    // The empty list is the answer; why it is empty is only a service.
    if (isAppError(error) && !client.signal.aborted) return undefined
    throw error
  }
  if (domains.includes(domain)) return undefined
  const closest = closestNames(domain, domains)
  const known = `no domain is called ${domain}`
  if (closest.length > 0) return `${known}, closest: ${closest.join(', ')}`
  return domains.length === 0 ? `${known}: nothing is stored yet` : known
}
