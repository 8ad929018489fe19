/**
 * "Did you mean …": the names of a set that are nearest to one that does not exist. For error messages of
 * every boundary; nothing may be decided by it.
 */

/** Names longer than this are compared by their first characters only, so that the work stays bounded. */
const COMPARED_CHARACTERS = 128

/**
 * Up to `limit` names within about a third of the word's length, nearest first, ties in the order given.
 * Names that contain the word (or are contained in it) count as near.
 */
export function closestNames(word: string, names: Iterable<string>, limit = 3): string[] {
  const wanted = word.toLowerCase().slice(0, COMPARED_CHARACTERS)
  const reach = Math.max(1, Math.floor(wanted.length / 3))
  const found: { name: string; distance: number }[] = []
  for (const name of names) {
    const candidate = name.toLowerCase().slice(0, COMPARED_CHARACTERS)
    const related = wanted.length > 2 && (candidate.includes(wanted) || wanted.includes(candidate))
    const distance = related ? 1 : editDistance(wanted, candidate, reach)
    if (distance <= reach) found.push({ name, distance })
  }
  return found
    .toSorted((a, b) => a.distance - b.distance)
    .slice(0, limit)
    .map(({ name }) => name)
}

/**
 * Insertions, deletions, replacements and swaps of neighbours between two words (optimal string
 * alignment); anything above `reach` may come back as `reach + 1`.
 */
function editDistance(a: string, b: string, reach: number): number {
  if (Math.abs(a.length - b.length) > reach) return reach + 1
  let before: number[] = []
  let last = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1]
      let cost = Math.min(
        (last[j] ?? 0) + 1,
        (row[j - 1] ?? 0) + 1,
        (last[j - 1] ?? 0) + (same ? 0 : 1),
      )
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        cost = Math.min(cost, (before[j - 2] ?? 0) + 1)
      }
      row.push(cost)
    }
    before = last
    last = row
  }
  return last[b.length] ?? reach + 1
}
