// The transactions of a period, oldest first. The page holds one part of them at a time.
import { ITEMS_MAX, page, type Entry, type Range } from "./bank";
import { HEADER, record } from "./csv";
import { euro } from "./money";

/** Transactions of a part. */
const ENTRIES = 250;
/** Transactions of a file. A spreadsheet has at most 1,048,576 rows. */
const SAVED_MAX = 1_000_000;

export interface Period {
  iban: string;
  /** RFC 3339. */
  from: string;
  until: string;
}

export interface Statement extends Period {
  opening: string;
  closing: string;
  /** Later transactions of the period are not part of this statement. Undefined if it is empty. */
  newest: Entry | undefined;
  /** Undefined if the records have no sequence. */
  count: number | undefined;
}

export interface Part {
  /** The oldest first. */
  entries: Entry[];
  /** Number of transactions of the period before this part. */
  start: number;
  isLast: boolean;
  /** Cursors of the oldest and the newest entry. */
  oldest: string | null;
  newest: string | null;
}

const EMPTY: Part = { entries: [], start: 0, isLast: true, oldest: null, newest: null };

export async function readStatement(period: Period): Promise<[Statement, Part]> {
  const { iban, from, until } = period;
  const [newest] = (await page(iban, { first: 1, from, until })).edges;
  if (!newest) {
    const [before] = (await page(iban, { first: 1, until: from })).edges;
    const balance = before?.node.new_balance ?? euro(0);
    return [{ ...period, opening: balance, closing: balance, newest: undefined, count: 0 }, EMPTY];
  }
  const { node } = newest;
  const part = await readNext({ ...period, newest: node }, null, 0, ENTRIES);
  const oldest = part.entries[0] ?? node;
  const count = Number(node.sequence) - Number(oldest.sequence) + 1;
  const statement = {
    ...period,
    // Not 0 if the bank's oldest transactions were deleted.
    opening: euro(BigInt(oldest.new_balance_cents) - BigInt(oldest.changed_by_cents)),
    closing: node.new_balance,
    newest: node,
    count: node.sequence === "0" ? undefined : count,
  };
  return [statement, part];
}

export function readLater(statement: Statement, { newest, start, entries }: Part): Promise<Part> {
  return readNext(statement, newest, start + entries.length, ENTRIES);
}

export async function readEarlier(statement: Statement, { oldest, start }: Part): Promise<Part> {
  const part = await readPart(statement, { first: Math.min(ENTRIES, start), after: oldest });
  return { ...part, start: start - part.entries.length };
}

/** A file with all transactions. Null if `progress` returned false. */
export async function save(
  statement: Statement,
  progress: (saved: number) => boolean,
): Promise<Blob | null> {
  // The browser can keep each Blob outside of the memory of the page.
  const parts = [new Blob([HEADER])];
  let part = EMPTY;
  let saved = 0;
  do {
    if ((statement.count ?? saved) > SAVED_MAX) {
      throw new Error(`it would have more than ${SAVED_MAX} transactions. Choose a shorter period`);
    }
    part = await readNext(statement, part.newest, saved, ITEMS_MAX);
    saved += part.entries.length;
    if (!progress(saved)) return null;
    parts.push(new Blob(part.entries.map(record)));
  } while (!part.isLast);
  return new Blob(parts, { type: "text/csv;charset=utf-8" });
}

type Bounds = Pick<Statement, "iban" | "from" | "until" | "newest">;

async function readNext(bounds: Bounds, before: string | null, start: number, last: number) {
  return { ...(await readPart(bounds, { last, before })), start };
}

async function readPart({ iban, from, until, newest }: Bounds, range: Range): Promise<Part> {
  const { edges, pageInfo } = await page(iban, { ...range, from, until });
  const entries = edges.map(({ node }) => node).reverse();
  // Transactions that arrived after the statement was read come after its newest one.
  const end = entries.findIndex(({ ref }) => ref === newest?.ref) + 1;
  return {
    entries: end ? entries.slice(0, end) : entries,
    start: 0,
    isLast: end > 0 || !pageInfo.hasPreviousPage,
    oldest: pageInfo.endCursor,
    newest: pageInfo.startCursor,
  };
}
