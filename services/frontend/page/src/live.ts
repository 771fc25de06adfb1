// The newest transactions of an account, kept up to date.
import { signal, type Signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import { connection, connections, listen, transactions, type Transaction } from "./bank";

/** Time between an error response and the next attempt. */
export const RETRY_MS = 5_000;

export interface Live {
  /** The newest first; null until they are loaded. */
  list: Transaction[] | null;
  /** Why they cannot be read; empty if they can. */
  reason: string;
}

/** At most `max` transactions of `iban`. All changes within one frame cause one update. */
export function useTransactions(iban: string, max: number): Signal<Live> {
  const [live] = useState(() => signal<Live>({ list: null, reason: "" }));
  useEffect(() => {
    let list: Transaction[] = [];
    // Transactions that arrive while the list is being queried.
    let early: Transaction[] | null = [];
    let frame = 0;
    let retry: ReturnType<typeof setTimeout> | undefined;
    const draw = (): void => {
      frame = 0;
      live.value = { list, reason: "" };
    };
    const fail = (reason: string): void => {
      live.value = { ...live.value, reason };
      clearTimeout(retry);
      if (connection.peek() !== "ended") retry = setTimeout(restart, RETRY_MS);
    };
    const add = (transaction: Transaction): void => {
      if (early) {
        early = newest([transaction, ...early], max);
        return;
      }
      list = newest([transaction, ...list], max);
      // A hidden page gets no frames; the first frame after that draws all changes.
      frame ||= requestAnimationFrame(draw);
    };
    // The subscription starts before the query, so no transaction is missed between them. Both are
    // repeated on each new connection, and after an error.
    let stop = listen(iban, add, fail);
    let queries = 0;
    const query = (): void => {
      early = [];
      const number = ++queries;
      const isNewest = (): boolean => number === queries;
      transactions(iban, max).then(
        (queried) => {
          // The response to an earlier query may be outdated.
          if (!isNewest()) return;
          list = newest([...(early ?? []), ...queried], max);
          early = null;
          frame ||= requestAnimationFrame(draw);
        },
        (err: Error) => isNewest() && fail(err.message),
      );
    };
    const restart = (): void => {
      stop();
      stop = listen(iban, add, fail);
      query();
    };
    const stopQuerying = connections.subscribe((count) => count > 0 && query());
    return () => {
      stop();
      stopQuerying();
      queries++;
      clearTimeout(retry);
      cancelAnimationFrame(frame);
    };
  }, [iban, max]);
  return live;
}

/** Without duplicates, in the bank's order; they can arrive in another order. */
function newest(all: Transaction[], max: number): Transaction[] {
  const byRef = new Map(all.map((it) => [it.ref, it]));
  return [...byRef.values()]
    .sort(
      (one, other) =>
        Number(other.sequence) - Number(one.sequence) || Number(other.ref) - Number(one.ref),
    )
    .slice(0, max);
}
