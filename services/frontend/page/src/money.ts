/** Euro cents in Dutch notation: `€1.234,56`. */
export function euro(cents: number | bigint): string {
  const [sign, euros, rest] = split(String(cents));
  return `${sign}€${euros.replace(/\B(?=(\d{3})+$)/g, ".")},${rest}`;
}

/** Euro cents, as decimal digits, in euros with a point: `1234.56`. */
export function decimal(cents: string): string {
  const [sign, euros, rest] = split(cents);
  return `${sign}${euros}.${rest}`;
}

function split(cents: string): [sign: string, euros: string, cents: string] {
  const digits = cents.replace("-", "").padStart(3, "0");
  return [cents.startsWith("-") ? "-" : "", digits.slice(0, -2), digits.slice(-2)];
}

/** The maximum of GraphQL's type Int. */
export const CENTS_MAX = 2_147_483_647;

/** The cents in a typed text; undefined if it is not a number of cents. */
export function parseCents(text: string): number | undefined {
  const cents = /^\d{1,10}$/.test(text.trim()) ? Number(text) : NaN;
  return cents <= CENTS_MAX ? cents : undefined;
}
