// The newest transactions of an account, kept up to date.
import { signal, type Signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import { connections, listen, transactions, type Transaction } from "./bank";

export interface Live {
  /** Null while they are loading; the newest first. */
  list: Transaction[] | null;
  /** Why they can't be read, or "". */
  reason: string;
}

/** At most `max` transactions of `iban`. Changes are drawn together, once a frame, however many there are. */
export function useTransactions(iban: string, max: number): Signal<Live> {
  const [live] = useState(() => signal<Live>({ list: null, reason: "" }));
  useEffect(() => {
    let list: Transaction[] = [];
    // Heard since the connection began, while the list is being asked for.
    let heard: Transaction[] | null = [];
    let frame = 0;
    const draw = (): void => {
      frame = 0;
      live.value = { list, reason: "" };
    };
    const fail = (reason: string): void => {
      live.value = { ...live.value, reason };
    };
    const add = (transaction: Transaction): void => {
      if (heard) {
        heard = newest([transaction, ...heard], max);
        return;
      }
      list = newest([transaction, ...list], max);
      // No frame comes while the page is hidden, and then one for all.
      frame ||= requestAnimationFrame(draw);
    };
    const stop = listen(iban, add, fail);
    // The listening begins before the asking, so nothing falls between them. With each new connection both begin anew.
    const stopAsking = connections.subscribe((count) => {
      if (count === 0) return;
      heard = [];
      const isNewest = (): boolean => count === connections.peek();
      transactions(iban, max).then(
        (asked) => {
          // An answer to what an earlier connection asked may be older than what was heard since.
          if (!isNewest()) return;
          list = newest([...(heard ?? []), ...asked], max);
          heard = null;
          frame ||= requestAnimationFrame(draw);
        },
        (err: Error) => isNewest() && fail(err.message),
      );
    });
    return () => {
      stop();
      stopAsking();
      cancelAnimationFrame(frame);
    };
  }, [iban, max]);
  return live;
}

/** Each once, in the order in which the bank decided: they may be told in another one. */
function newest(all: Transaction[], max: number): Transaction[] {
  const byRef = new Map(all.map((it) => [it.ref, it]));
  return [...byRef.values()]
    .sort(
      (one, other) =>
        Number(other.sequence) - Number(one.sequence) || Number(other.ref) - Number(one.ref),
    )
    .slice(0, max);
}
