/** Euro cents in Dutch notation: `€1.234,56`. */
export function euro(cents: number): string {
  const euros = String(Math.floor(cents / 100)).replace(/\B(?=(\d{3})+$)/g, ".");
  return `€${euros},${String(cents % 100).padStart(2, "0")}`;
}

/** The maximum of GraphQL's type Int. */
export const CENTS_MAX = 2_147_483_647;

/** The cents in a typed text; undefined if it is not a number of cents. */
export function parseCents(text: string): number | undefined {
  const cents = /^\d{1,10}$/.test(text.trim()) ? Number(text) : NaN;
  return cents <= CENTS_MAX ? cents : undefined;
}
