// Client of the GraphQL endpoint. All operations share one websocket. After a loss it is reopened,
// and graphql-ws repeats the operations without a result. Repeating a transfer is safe, because
// the bank handles each uuid once.
import { effect, signal } from "@preact/signals";
import { createClient, type Client } from "graphql-ws";
import { BankError, findProblem, type Problem } from "./problem";
import { employeeToken, session } from "./session";

export interface Transaction {
  id: number;
  ref: string;
  /** Number among the transactions of the account: "1", "2", "3" ... */
  sequence: string;
  /** When the bank decided it, RFC 3339 in UTC. Null if its record has no time. */
  time: string | null;
  iban: string;
  /** As in "€1.234,56" or "-€0,05". */
  new_balance: string;
  changed_by: string;
  from_to: string;
  descr: string;
  direction: "DEBIT" | "CREDIT";
}

export const COMPANY_IBAN = "NL66OPEN0000000000";

export const endpoint = socketUrl(
  document.querySelector<HTMLMetaElement>("meta[name=graphql-url]")?.content ?? "/graphql",
  location,
);

/**
 * State of the connection, shown in the header. After "ended" the page does not connect again by
 * itself.
 */
export const connection = signal<"connecting" | "connected" | "lost" | "ended">("connecting");
/** Why there is no connection, if the cause is known. */
export const problem = signal<Problem | null>(null);
/** Number of connections so far. Results from before the current one may be outdated. */
export const connections = signal(0);

const PING_MS = 10_000;
const PONG_MS = 5_000;
const RETRY_MS_MAX = 5_000;
/** Close code of `client.terminate()`. */
const TERMINATED = 4499;
/** Close code for an unknown token. It was valid before: replaced, revoked, or deleted. */
const FORBIDDEN = 4403;

let pongTimer: ReturnType<typeof setTimeout> | undefined;
/** True from the handshake to the loss of a connection. */
let isOpen = false;
/** Failed handshakes since the last connection. */
let failures = 0;
/** Resolves when the cause of the last loss is known, as far as it can be. */
let finding: Promise<unknown> = Promise.resolve();
/** Ends the current pause between two attempts. */
let endPause = (): void => {};

/** Connects now instead of after the current pause. */
export function retryNow(): void {
  endPause();
}

const client = createClient({
  url: endpoint,
  lazy: false,
  retryAttempts: Infinity,
  shouldRetry: () => true,
  retryWait: async (retries) => {
    await finding;
    // Random, so that not all pages reconnect to a restarted endpoint at the same moment.
    const random = Math.random() * Math.min(RETRY_MS_MAX, 300 * 2 ** retries);
    await pause((problem.peek()?.retryMs ?? 0) + random);
  },
  connectionAckWaitTimeout: PONG_MS,
  keepAlive: PING_MS,
  connectionParams: () => authorization(readToken()),
  // Called for a close code with which the client does not connect again, such as 4400.
  onNonLazyError: (err) => {
    problem.value = closedFor(reasonOf(err));
    connection.value = "ended";
  },
  on: {
    opened: () => {
      isOpen = true;
    },
    // Precedes `closed` and the call of `retryWait`.
    error: () => {
      if (!isOpen) finding = findProblem(endpoint, ++failures).then(lose);
    },
    connected: () => {
      if (connection.peek() === "ended") return;
      failures = 0;
      problem.value = null;
      connection.value = "connected";
      connections.value += 1;
    },
    closed: (event) => {
      clearTimeout(pongTimer);
      const { code, reason } = event as { code?: number; reason?: string };
      if (code === FORBIDDEN) (employeeToken.value ? employeeToken : session).value = null;
      if (isOpen && code !== TERMINATED) lose(reason ? closedFor(reason) : null);
      isOpen = false;
    },
    // A lost connection may send no close frame; it shows by a missing pong.
    ping: (received) => {
      if (received) return;
      pongTimer = setTimeout(() => {
        connection.value = "lost";
        client.terminate();
      }, PONG_MS);
    },
    pong: (received) => {
      if (received) clearTimeout(pongTimer);
    },
  },
});

function lose(cause: Problem | null): void {
  if (connection.peek() === "ended") return;
  problem.value = cause;
  connection.value = "lost";
}

function closedFor(reason: string): Problem {
  return { text: `The bank closed the connection: ${reason}.`, retryMs: 0 };
}

/** If the ledger is not public, a connection reads what its token allows: of an employee, all. */
function readToken(): string | undefined {
  return employeeToken.value ?? session.value?.token;
}

function authorization(token: string | undefined): Record<string, string> {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

// The token is sent when a connection is opened, so a changed token needs a new connection.
let known = readToken();
effect(() => {
  const token = readToken();
  if (token !== known) {
    known = token;
    client.terminate();
  }
});

/**
 * URL of the websocket. `given` is a URL, `:PORT/PATH` on the page's host, or `/PATH` on the page's
 * origin.
 */
export function socketUrl(
  given: string,
  page: { protocol: string; hostname: string; href: string },
): string {
  const url = new URL(
    given.startsWith(":") ? `${page.protocol}//${page.hostname}${given}` : given,
    page.href,
  );
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

/** Maximum of `first`, `last` and `max_items`. */
export const ITEMS_MAX = 1000;

export interface Account {
  iban: string;
  balance: string;
  /** Null if the account was never used. */
  last_change: Pick<Transaction, "changed_by" | "time"> | null;
}

export interface AccountPage {
  edges: { node: Account }[];
  pageInfo: { hasNextPage: boolean; endCursor: string | null };
}

/** The accounts whose iban begins with `prefix`, by iban, after a cursor; at most `first`. */
export async function accounts(
  prefix: string,
  after: string | null,
  first: number,
): Promise<AccountPage> {
  const query = `query($prefix: String, $after: String, $first: Int) {
    accounts(prefix: $prefix, after: $after, first: $first) {
      edges { node { iban balance last_change { changed_by time } } }
      pageInfo { hasNextPage endCursor } } }`;
  return (await ask<{ accounts: AccountPage }>(query, { prefix, after, first })).accounts;
}

/** Returns if the bank has an employee with this token, else throws the reason. */
export async function checkEmployee(token: string): Promise<void> {
  // On a connection of its own: a wrong token closes it.
  const trial = createClient({
    url: endpoint,
    retryAttempts: 0,
    connectionAckWaitTimeout: PONG_MS,
    connectionParams: authorization(token),
  });
  try {
    await request(trial, "{ accounts(first: 1) { edges { cursor } } }", {});
  } catch (err) {
    // A token of an account is refused as an unknown one.
    if (!(err as BankError).isDenied) throw err;
    throw new Error("the bank has no employee with this token");
  }
}

/** The newest transactions of an account, the newest first. */
export async function transactions(iban: string, max: number): Promise<Transaction[]> {
  const query = `query($iban: String!, $max: Int!) {
    transactions_by_iban(iban: $iban, max_items: $max) { ${FIELDS} } }`;
  return (await ask<{ transactions_by_iban: Transaction[] }>(query, { iban, max }))
    .transactions_by_iban;
}

/** A transaction of a page, with the amounts in euro cents as decimal digits. */
export interface Entry extends Transaction {
  changed_by_cents: string;
  new_balance_cents: string;
}

/** The arguments of a page. docs/graphql.md describes them. */
export interface Range {
  first?: number;
  after?: string | null;
  last?: number;
  before?: string | null;
  from?: string;
  until?: string;
}

/** A page of transactions, the newest first. */
export interface Page {
  edges: { cursor: string; node: Entry }[];
  pageInfo: {
    /** True if there are newer ones. Always true with `after`. */
    hasPreviousPage: boolean;
    /** True if there are older ones. Always true with `before`. */
    hasNextPage: boolean;
    startCursor: string | null;
    endCursor: string | null;
  };
}

export async function page(iban: string, range: Range): Promise<Page> {
  const query = `query($iban: String!, $first: Int, $after: String, $last: Int, $before: String,
      $from: DateTime, $until: DateTime) {
    transactions(iban: $iban, first: $first, after: $after, last: $last, before: $before,
      from: $from, until: $until) {
      edges { cursor node { ${FIELDS} changed_by_cents new_balance_cents } }
      pageInfo { hasPreviousPage hasNextPage startCursor endCursor } } }`;
  return (await ask<{ transactions: Page }>(query, { iban, ...range })).transactions;
}

/** The cursor of a transaction, for the transactions after it. Null if there is no such one. */
export async function cursorOf({ iban, ref, time }: Transaction): Promise<string | null> {
  // The bank finds a time faster than it reads all newer transactions.
  const until = time === null ? undefined : new Date(Date.parse(time) + 1).toISOString();
  let after: string | null = null;
  do {
    const { edges, pageInfo }: Page = await page(iban, { first: 100, after, until });
    const found = edges.find(({ node }) => node.ref === ref);
    if (found) return found.cursor;
    after = pageInfo.hasNextPage ? pageInfo.endCursor : null;
  } while (after !== null);
  return null;
}

/**
 * Subscribes to the transactions of an account after the sequence `after`, in order and without
 * gaps, also over several connections. Without `after`: to new transactions only. The returned
 * function ends the subscription.
 */
export function listen(
  iban: string,
  after: string | null,
  received: (transaction: Transaction) => void,
  failed: (error: BankError) => void,
): () => void {
  const query = `subscription($iban: String, $after: Long) {
    stream_transactions(iban: $iban, after_sequence: $after) { ${FIELDS} } }`;
  // The client sends this object again on each new connection.
  const variables = { iban, after };
  return client.subscribe<{ stream_transactions: Transaction }>(
    { query, variables },
    {
      next: ({ data, errors }) => {
        if (!data) return failed(errorOf(errors));
        const transaction = data.stream_transactions;
        if (after !== null) variables.after = transaction.sequence;
        received(transaction);
      },
      error: (err) => failed(errorOf(err)),
      complete: () => {},
    },
  );
}

/**
 * Opens an account for a new user name, or returns the account of a known one. Throws the reason of
 * a refusal.
 */
export async function logIn(
  username: string,
  password: string,
): Promise<{ iban: string; token: string }> {
  const query = `mutation($username: String!, $password: String!) {
    get_account(username: $username, password: $password) { iban token reason } }`;
  const answer = await ask<{
    get_account: { iban: string | null; token: string | null; reason: string | null };
  }>(query, { username, password });
  const { iban, token, reason } = answer.get_account;
  if (iban === null || token === null) throw new Error(reason ?? "the bank gave no reason");
  return { iban, token };
}

/** Replaces the token of an account, so that no login is valid any more, nor is this one. */
export async function logOutEverywhere(token: string): Promise<void> {
  const query = `mutation($token: String!) { rotate_token(token: $token) { reason reason_code } }`;
  const answer = await ask<{
    rotate_token: { reason: string | null; reason_code: string | null };
  }>(query, { token });
  const { reason, reason_code } = answer.rotate_token;
  // An invalid token was replaced before.
  if (reason !== null && reason_code !== "TOKEN_INVALID") throw new Error(reason);
}

export interface Transfer {
  token: string;
  /** Euro cents. */
  amount: number;
  from: string;
  to: string;
  descr: string;
}

/**
 * Moves money. True if it moved, false if the outcome is still unknown. Throws the reason of a
 * refusal.
 */
export async function transfer(wanted: Transfer): Promise<boolean> {
  const query = `mutation($uuid: String!, $token: String!, $amount: Int!,
      $from: String!, $to: String!, $descr: String!) {
    money_transfer(uuid: $uuid, token: $token, amount: $amount,
      from: $from, to: $to, descr: $descr) { success reason } }`;
  const variables = { ...wanted, uuid: uuid() };
  // `success` is null if the bank has not answered within the endpoint's timeout. A retry with the
  // same uuid moves no money twice.
  for (let times = 0; times < 6; times++) {
    const answer = await ask<{
      money_transfer: { success: boolean | null; reason: string | null };
    }>(query, variables);
    const { success, reason } = answer.money_transfer;
    if (success === true) return true;
    if (success === false) throw new Error(reason ?? "the bank gave no reason");
  }
  return false;
}

const FIELDS = "id ref sequence time iban new_balance changed_by from_to descr direction";

/** The endpoint closes a connection with more than 32 operations; some are subscriptions. */
const REQUESTS_MAX = 16;
let requests = 0;
/** Start the requests that wait for the end of another one. */
const queue: (() => void)[] = [];

async function ask<T>(query: string, variables: Record<string, unknown>): Promise<T> {
  if (requests >= REQUESTS_MAX) await new Promise<void>((start) => queue.push(start));
  requests++;
  try {
    return await request<T>(client, query, variables);
  } finally {
    requests--;
    queue.shift()?.();
  }
}

function request<T>(
  connected: Client,
  query: string,
  variables: Record<string, unknown>,
): Promise<T> {
  return new Promise((resolve, reject) => {
    connected.subscribe<T>(
      { query, variables },
      {
        next: ({ data, errors }) =>
          data && !errors ? resolve(data) : reject(errorOf(errors)),
        error: (err) => reject(errorOf(err)),
        complete: () => reject(new BankError("the bank gave no answer")),
      },
    );
  });
}

/** Of several errors, the first one has the code. */
function errorOf(err: unknown): BankError {
  if (err instanceof CloseEvent && err.code === FORBIDDEN) {
    return new BankError(reasonOf(err), "UNAUTHENTICATED");
  }
  const first = (Array.isArray(err) ? err[0] : err) as { extensions?: { code?: string } } | null;
  return new BankError(reasonOf(err), first?.extensions?.code);
}

/** The text of an error of graphql-ws: one error, several, or an event of the socket. */
function reasonOf(err: unknown): string {
  if (Array.isArray(err)) return err.map(reasonOf).join("; ");
  if (err instanceof CloseEvent) return err.reason || `close code ${err.code}`;
  if (err instanceof Event) return "the bank is unreachable";
  return err instanceof Object && "message" in err
    ? String(err.message)
    : "the bank gave no reason";
}

/**
 * A UUID of version 7 (RFC 9562): the time in ms, then random bits. By this time, a bank that does
 * not keep outcomes forever recognizes old transfers.
 */
function uuid(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const now = Date.now();
  const view = new DataView(bytes.buffer);
  view.setUint16(0, Math.floor(now / 2 ** 32));
  view.setUint32(2, now % 2 ** 32);
  bytes[6] = (bytes[6]! & 0x0f) | 0x70;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** Waits, at most until `retryNow` is called. */
function pause(ms: number): Promise<void> {
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    endPause = () => {
      clearTimeout(timer);
      done();
    };
  });
}
