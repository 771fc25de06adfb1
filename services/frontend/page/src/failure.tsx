// The message that something cannot be shown.
import type { BankError } from "./problem";

interface Props {
  what: string;
  error: BankError | null;
  /** What helps, unless the same request would fail again. */
  remedy: string;
}

export function Failure({ what, error, remedy }: Props) {
  if (!error) return null;
  return (
    <p class="notification is-danger" role="alert">
      {what} cannot be loaded: {error.message}. {!error.isFinal && remedy}
    </p>
  );
}

/** The remedy after a request of the user. */
export const LATER = "Try again after a few seconds.";
