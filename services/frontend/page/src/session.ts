// State in the browser's storage. Logins last until the tab is closed. The theme and the view of
// transactions are permanent.
import { effect, signal } from "@preact/signals";

export interface Session {
  username: string;
  iban: string;
  /** Allows transfers, so it is in the session storage only. */
  token: string;
}

export const session = signal<Session | null>(read(() => sessionStorage, "session", isSession));
effect(() => write(() => sessionStorage, "session", session.value));

/** The token of an employee. It reads all accounts, so it is in the session storage only. */
export const employeeToken = signal<string | null>(
  read(
    () => sessionStorage,
    "employee",
    (it) => typeof it === "string",
  ),
);
effect(() => write(() => sessionStorage, "employee", employeeToken.value));

export const MAX_ITEMS = [5, 10, 25, 50, 100, 250];

/** Fields of a transaction that can be hidden, with their labels. */
export const FIELDS = [
  ["time", "time"],
  ["from_to", "other account"],
  ["descr", "description"],
  ["new_balance", "new balance"],
  ["iban", "own account"],
  ["sequence", "number"],
] as const;
export type Field = (typeof FIELDS)[number][0];

export interface View {
  max: number;
  fields: Field[];
}

const VIEW: View = { max: 10, fields: ["time", "from_to", "descr", "new_balance"] };
export const view = signal<View>(read(() => localStorage, "view", isView) ?? VIEW);
effect(() => write(() => localStorage, "view", view.value));

export type Theme = "light" | "dark";
/** The user's choice; null follows the system. */
export const theme = signal<Theme | null>(
  read(
    () => localStorage,
    "theme",
    (it) => it === "light" || it === "dark",
  ),
);
effect(() => {
  if (theme.value) document.documentElement.dataset.theme = theme.value;
  else delete document.documentElement.dataset.theme;
  write(() => localStorage, "theme", theme.value);
});

function isSession(it: unknown): it is Session {
  const keys = ["username", "iban", "token"] as const;
  return (
    it instanceof Object && keys.every((key) => typeof (it as Partial<Session>)[key] === "string")
  );
}

function isView(it: unknown): it is View {
  const { max, fields } = (it ?? {}) as Partial<View>;
  return (
    MAX_ITEMS.includes(max as number) &&
    Array.isArray(fields) &&
    fields.every((field) => FIELDS.some(([name]) => name === field))
  );
}

// Storage can be disabled, full, or contain data of an older page. It then counts as empty.
function read<T>(storage: () => Storage, key: string, fits: (it: unknown) => it is T): T | null {
  try {
    const kept: unknown = JSON.parse(storage().getItem(key) ?? "null");
    return fits(kept) ? kept : null;
  } catch {
    return null;
  }
}

function write(storage: () => Storage, key: string, value: unknown): void {
  try {
    if (value === null) storage().removeItem(key);
    else storage().setItem(key, JSON.stringify(value));
  } catch {
    // See above.
  }
}
