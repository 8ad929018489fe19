/**
 * Figures and seeds that a test vouches for. They are printed as `evidence: NAME KEY=VALUE …`, from where the
 * suite collects them: `npm test` shows them, `npm run check:full` keeps them in docs/evidence/check-full.md.
 */
export function evidence(name: string, figures: Readonly<Record<string, number | string>>): void {
  const text = Object.entries(figures).map(([key, value]) => `${key}=${value}`)
  console.log(`evidence: ${name} ${text.join(' ')}`)
}
