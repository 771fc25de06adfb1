// The bank as the endpoint offers it. Everything goes over one websocket, which is opened again whenever it is lost;
// graphql-ws then asks again what had no answer. That is safe for transfers too: the bank handles a uuid once.
import { effect, signal } from "@preact/signals";
import { createClient } from "graphql-ws";
import { session } from "./session";

export interface Transaction {
  id: number;
  ref: string;
  /** Its place among the transactions of the account, a number. */
  sequence: string;
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

/** How it is with the connection, as visitors see it. */
export const connection = signal<"connecting" | "connected" | "lost">("connecting");
/** Counts connections: what was asked before may be old after each. */
export const connections = signal(0);

const PING_MS = 10_000;
const PONG_MS = 5_000;
const RETRY_MS_MAX = 5_000;
/** We closed it ourselves, to open another one. */
const TERMINATED = 4499;
/** The token is nobody's: the bank's data are others now. */
const FORBIDDEN = 4403;

let pongTimer: ReturnType<typeof setTimeout> | undefined;

const client = createClient({
  url: endpoint,
  lazy: false,
  retryAttempts: Infinity,
  shouldRetry: () => true,
  // The time is drawn at random: an endpoint that comes back is not asked by all at the same moment.
  retryWait: (retries) => pause(Math.random() * Math.min(RETRY_MS_MAX, 300 * 2 ** retries)),
  connectionAckWaitTimeout: PONG_MS,
  keepAlive: PING_MS,
  // Where the ledger is not public, an account's token is what allows reading it.
  connectionParams: () => (session.value ? { Authorization: `Bearer ${session.value.token}` } : {}),
  onNonLazyError: () => {},
  on: {
    connected: () => {
      connection.value = "connected";
      connections.value += 1;
    },
    closed: (event) => {
      clearTimeout(pongTimer);
      const { code } = event as { code?: number };
      if (code === FORBIDDEN) session.value = null;
      if (code !== TERMINATED) connection.value = "lost";
    },
    // A connection that died silently is noticed by the answer that doesn't come.
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

// Who somebody is, is said when a connection begins.
let known = session.peek()?.token;
effect(() => {
  const token = session.value?.token;
  if (token !== known) {
    known = token;
    client.terminate();
  }
});

/** Where the websocket is, for an endpoint at an URL, at `:PORT/PATH` on the page's host, or at `/PATH` on its origin. */
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

/** The last transaction of each account behind `after`, by iban. */
export async function accounts(after: string, max: number): Promise<Transaction[]> {
  const query = `query($after: String, $max: Int) { all_last_transactions(after: $after, max_items: $max) ${FIELDS} }`;
  return (await ask<{ all_last_transactions: Transaction[] }>(query, { after, max }))
    .all_last_transactions;
}

/** The newest transactions of an account, the newest first. */
export async function transactions(iban: string, max: number): Promise<Transaction[]> {
  const query = `query($iban: String!, $max: Int!) { transactions_by_iban(iban: $iban, max_items: $max) ${FIELDS} }`;
  return (await ask<{ transactions_by_iban: Transaction[] }>(query, { iban, max }))
    .transactions_by_iban;
}

/** Tells `heard` each transaction of an account from now on, until the returned function is called. */
export function listen(
  iban: string,
  heard: (transaction: Transaction) => void,
  failed: (reason: string) => void,
): () => void {
  const query = `subscription($iban: String) { stream_transactions(iban: $iban) ${FIELDS} }`;
  return client.subscribe<{ stream_transactions: Transaction }>(
    { query, variables: { iban } },
    {
      next: ({ data, errors }) =>
        data ? heard(data.stream_transactions) : failed(reasonOf(errors)),
      error: (err) => failed(reasonOf(err)),
      complete: () => {},
    },
  );
}

/** The account of somebody, who is new or knows the password. Throws the reason why there is none. */
export async function logIn(
  username: string,
  password: string,
): Promise<{ iban: string; token: string }> {
  const query =
    "mutation($username: String!, $password: String!) { get_account(username: $username, password: $password) { iban token reason } }";
  const answer = await ask<{
    get_account: { iban: string | null; token: string | null; reason: string | null };
  }>(query, { username, password });
  const { iban, token, reason } = answer.get_account;
  if (iban === null || token === null) throw new Error(reason ?? "the bank gave no reason");
  return { iban, token };
}

export interface Transfer {
  token: string;
  /** Euro cents. */
  amount: number;
  from: string;
  to: string;
  descr: string;
}

/** Moves money. Throws the reason why it doesn't. */
export async function transfer(wanted: Transfer): Promise<void> {
  const query = `mutation($uuid: String!, $token: String!, $amount: Int!, $from: String!, $to: String!, $descr: String!) {
    money_transfer(uuid: $uuid, token: $token, amount: $amount, from: $from, to: $to, descr: $descr) { success reason } }`;
  const variables = { ...wanted, uuid: uuid() };
  let reason: string | null = null;
  // While nobody knows, the same uuid asks again and moves nothing twice. Each answer takes as long as the endpoint waits.
  for (let times = 0; times < 6; times++) {
    const answer = await ask<{
      money_transfer: { success: boolean | null; reason: string | null };
    }>(query, variables);
    reason = answer.money_transfer.reason;
    if (answer.money_transfer.success === true) return;
    if (answer.money_transfer.success === false) break;
  }
  throw new Error(reason ?? "the bank gave no reason");
}

const FIELDS = "{ id ref sequence iban new_balance changed_by from_to descr direction }";

function ask<T>(query: string, variables: Record<string, unknown>): Promise<T> {
  return new Promise((resolve, reject) => {
    client.subscribe<T>(
      { query, variables },
      {
        next: ({ data, errors }) =>
          data && !errors ? resolve(data) : reject(new Error(reasonOf(errors))),
        error: (err) => reject(new Error(reasonOf(err))),
        complete: () => reject(new Error("the bank gave no answer")),
      },
    );
  });
}

/** What graphql-ws gives as an error: one, several, or the closing of the socket. */
function reasonOf(err: unknown): string {
  if (Array.isArray(err)) return err.map(reasonOf).join("; ");
  if (err instanceof CloseEvent) return err.reason || `the connection was closed (${err.code})`;
  return err instanceof Object && "message" in err
    ? String(err.message)
    : "the bank gave no reason";
}

/** Random, version 4. The browser's own is only there on https and localhost. */
function uuid(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6]! & 0x0f) | 0x40;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

function pause(ms: number): Promise<void> {
  return new Promise((done) => setTimeout(done, ms));
}
