// The newest transactions of an account, kept up to date.
import { signal, type Signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import { connection, connections, listen, page, transactions, type Transaction } from "./bank";
import type { BankError } from "./problem";

/** Time between an error response and the next attempt. */
export const RETRY_MS = 5_000;

export interface Live {
  /** The newest first; null until they are loaded. */
  list: Transaction[] | null;
  /** Why they cannot be read; null if they can. */
  error: BankError | null;
}

/** At most `max` transactions of `iban`. All changes within one frame cause one update. */
export function useTransactions(iban: string, max: number): Signal<Live> {
  const [live] = useState(() => signal<Live>({ list: null, error: null }));
  useEffect(() => {
    let list: Transaction[] = [];
    let state: "reading" | "following" | "failed" = "reading";
    let frame = 0;
    let retry: ReturnType<typeof setTimeout> | undefined;
    let stop = (): void => {};
    let reads = 0;
    const draw = (): void => {
      frame = 0;
      live.value = { list, error: null };
    };
    // A hidden page gets no frames; the first frame after that draws all changes.
    const change = (changed: Transaction[]): void => {
      list = changed;
      frame ||= requestAnimationFrame(draw);
    };
    const fail = (error: BankError): void => {
      state = "failed";
      live.value = { ...live.value, error };
      clearTimeout(retry);
      if (!error.isFinal && connection.peek() !== "ended") retry = setTimeout(read, RETRY_MS);
    };
    const add = (transaction: Transaction): void => change([transaction, ...list].slice(0, max));
    // Reads the newest transactions, then subscribes to those after them.
    const read = (): void => {
      stop();
      clearTimeout(retry);
      state = "reading";
      const number = ++reads;
      const isNewest = (): boolean => number === reads;
      transactions(iban, max).then(
        (queried) => {
          if (!isNewest()) return;
          change(queried);
          state = "following";
          stop = listen(iban, last(), add, fail);
        },
        (err: BankError) => isNewest() && fail(err),
      );
    };
    /** The sequence of the newest transaction; null if the bank's records have none. */
    const last = (): string | null => {
      const sequence = list[0]?.sequence;
      return sequence === "0" ? null : (sequence ?? "0");
    };
    // The stream begins with what was missed between the connections. If that is more than the list
    // shows, the list is read again, since the stream would send all of it.
    const continueOnConnection = async (): Promise<void> => {
      if (state === "failed" || last() === null) return read();
      const { edges } = await page(iban, { first: 1 });
      const missed = Number(edges[0]?.node.sequence ?? 0) - Number(last());
      if (state === "following" && missed > max) read();
    };
    const before = connections.peek();
    const stopContinuing = connections.subscribe((count) => {
      if (count === before || state === "reading") return;
      // Without a response the stream continues all the same.
      continueOnConnection().catch(() => {});
    });
    read();
    return () => {
      stop();
      stopContinuing();
      reads++;
      state = "reading";
      clearTimeout(retry);
      cancelAnimationFrame(frame);
    };
  }, [iban, max]);
  return live;
}
