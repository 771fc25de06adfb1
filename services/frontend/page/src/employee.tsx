// The bank employee's page: all accounts in pages, a search, and the transactions of one account.
import { useEffect, useRef, useState } from "preact/hooks";
import { ITEMS_MAX, accounts, allAccounts, connections, type Account } from "./bank";
import { Transactions, useShown } from "./transactions";

const ACCOUNTS = 20;
/** A search reads all accounts, so it is limited to this many. */
const SEARCHED_MAX = 10_000;
const REFRESH_MS = 2_000;

export function BankEmployee() {
  // The last account of each page before this one.
  const [before, setBefore] = useState<string[]>([]);
  const [followed, setFollowed] = useState<string | null>(null);
  const [typed, setTyped] = useState("");
  // Ibans are often written in groups of four.
  const search = typed.replace(/\s/g, "").toUpperCase();
  const after = before.at(-1) ?? "";
  const { list, reason } = useAccounts(search ? null : after);
  const matches = list?.filter(({ iban }) => iban.includes(search));
  const page = matches?.filter(({ iban }) => iban > after) ?? null;
  const last = page?.[ACCOUNTS - 1]?.iban;
  const more = page !== null && page.length > ACCOUNTS && last !== undefined;
  return (
    <div class="columns is-desktop">
      <div class="column is-narrow-desktop">
        <div class="search">
          <label>
            <span class="label">Search by account number</span>
            <input
              class="input"
              type="search"
              id="search-accounts"
              autoComplete="off"
              spellcheck={false}
              onInput={({ currentTarget }) => {
                setTyped(currentTarget.value);
                setBefore([]);
              }}
            />
          </label>
          <p class="help" id="matches" role="status">
            {search && list && counted(matches!.length, list.length)}
          </p>
        </div>
        {reason && (
          <p class="notification is-danger" role="alert">
            Accounts cannot be loaded: {reason}. This page tries again.
          </p>
        )}
        {page === null && !reason && (
          <p class="notification" role="status">
            Loading accounts…
          </p>
        )}
        {page?.length === 0 && (
          <p class="notification" id="no-accounts">
            {search
              ? `No account number contains “${search}”.`
              : before.length
                ? "There are no more accounts."
                : "No account has a transaction yet."}
          </p>
        )}
        {!!page?.length && (
          <div class="table-container" role="region" aria-label="Accounts" tabIndex={0}>
            <table class="table is-fullwidth is-narrow is-hoverable" id="accounts">
              <thead>
                <tr>
                  <th scope="col">Account</th>
                  <th scope="col" class="has-text-right">
                    Balance
                  </th>
                  <th scope="col" class="has-text-right is-hidden-mobile">
                    Last change
                  </th>
                </tr>
              </thead>
              <tbody>
                {page.slice(0, ACCOUNTS).map(({ iban, new_balance, changed_by }) => (
                  <tr key={iban} class={iban === followed ? "followed" : ""}>
                    <td>
                      <button
                        type="button"
                        class={iban === followed ? "button is-small is-link" : "button is-small"}
                        id={`account-${iban}`}
                        aria-pressed={iban === followed}
                        onClick={() => setFollowed(iban === followed ? null : iban)}
                      >
                        {iban}
                      </button>
                    </td>
                    <td class="has-text-right">{new_balance}</td>
                    <td class="has-text-right is-hidden-mobile">{changed_by}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
        <nav class="bar" aria-label="Pages of accounts">
          <button
            type="button"
            class="button"
            id="previous-accounts"
            disabled={before.length === 0}
            onClick={() => setBefore(before.slice(0, -1))}
          >
            Previous
          </button>
          <span aria-live="polite">Page {before.length + 1}</span>
          <button
            type="button"
            class="button"
            id="next-accounts"
            disabled={!more}
            onClick={() => more && setBefore([...before, last])}
          >
            Next
          </button>
        </nav>
      </div>
      <div class="column">
        {followed ? (
          <Followed key={followed} iban={followed} />
        ) : (
          <p class="notification">Select an account to see its transactions live.</p>
        )}
      </div>
    </div>
  );
}

function Followed({ iban }: { iban: string }) {
  const title = useRef<HTMLHeadingElement>(null);
  useEffect(() => title.current?.scrollIntoView({ block: "nearest" }), []);
  return (
    <>
      <h2 class="subtitle following" ref={title}>
        Following {iban}
      </h2>
      <Transactions iban={iban} live={useShown(iban)} />
    </>
  );
}

function counted(matches: number, searched: number): string {
  const all = searched < SEARCHED_MAX ? searched : `the first ${SEARCHED_MAX}`;
  return `${matches} of ${all} accounts match`;
}

interface Answer {
  /** The argument of the query. */
  after: string | null;
  /** Null until the accounts are loaded. */
  list: Account[] | null;
  /** Why they cannot be loaded; empty if they can. */
  reason: string;
}

/**
 * The accounts after `after`: a page and, if there are more, one account of the next page. All
 * accounts if `after` is null. Refreshed while the page is visible, less often if there are many.
 */
function useAccounts(after: string | null): Answer {
  const [answer, setAnswer] = useState<Answer>({ after, list: null, reason: "" });
  const connection = connections.value;
  useEffect(() => {
    if (connection === 0) return;
    let timer: ReturnType<typeof setTimeout>;
    let left = false;
    let shown: Account[] | null = null;
    const wait = (ms: number): void => {
      timer = setTimeout(() => (document.hidden ? wait(ms) : refresh()), ms);
    };
    const refresh = (): void => {
      const query = after === null ? allAccounts(SEARCHED_MAX) : accounts(after, ACCOUNTS + 1);
      query
        .then(
          (list) => ({ after, list, reason: "" }),
          // The accounts that are shown stay.
          (err: Error) => ({ after, list: shown, reason: err.message }),
        )
        .then((given) => {
          if (left) return;
          shown = given.list;
          setAnswer(given);
          wait(REFRESH_MS * Math.ceil(((shown?.length ?? 0) + 1) / ITEMS_MAX));
        });
    };
    refresh();
    return () => {
      left = true;
      clearTimeout(timer);
    };
  }, [after, connection]);
  return answer.after === after ? answer : { after, list: null, reason: "" };
}
