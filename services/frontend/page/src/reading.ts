// What was read on request of the user, and the state of the request.
import { useRef, useState } from "preact/hooks";
import type { BankError } from "./problem";

export interface Reading<T> {
  /** The last response; null before it and after `clear`. */
  value: T | null;
  loading: boolean;
  error: BankError | null;
  /** Shows the response when it arrives. That to an earlier request is dropped. */
  read: (response: Promise<T | null>) => void;
  clear: () => void;
}

export function useReading<T>(): Reading<T> {
  const empty = { value: null, loading: false, error: null };
  const [state, setState] = useState<Pick<Reading<T>, "value" | "loading" | "error">>(empty);
  const newest = useRef(0);
  const read = (response: Promise<T | null>): void => {
    const number = ++newest.current;
    const isNewest = (): boolean => number === newest.current;
    setState(({ value }) => ({ value, loading: true, error: null }));
    response.then(
      (value) => isNewest() && setState({ ...empty, value }),
      (error: BankError) => isNewest() && setState(({ value }) => ({ ...empty, value, error })),
    );
  };
  const clear = (): void => {
    newest.current++;
    setState(empty);
  };
  return { ...state, read, clear };
}
