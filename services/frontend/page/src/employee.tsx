// All accounts, a page at a time; one of them is followed.
import { useEffect, useRef, useState } from "preact/hooks";
import { accounts, connections, type Transaction } from "./bank";
import { Transactions, useShown } from "./transactions";

const ACCOUNTS = 20;
const REFRESH_MS = 2_000;

export function BankEmployee() {
  // The last account of each page before this one.
  const [before, setBefore] = useState<string[]>([]);
  const [followed, setFollowed] = useState<string | null>(null);
  const { page, reason } = useAccounts(before.at(-1) ?? "");
  const last = page?.[ACCOUNTS - 1]?.iban;
  const more = page !== null && page.length > ACCOUNTS && last !== undefined;
  return (
    <div class="columns is-desktop">
      <div class="column is-narrow-desktop">
        {reason && (
          <p class="notification is-danger" role="alert">
            Accounts can’t be shown: {reason}
          </p>
        )}
        {page === null && !reason && (
          <p class="notification" role="status">
            Loading accounts…
          </p>
        )}
        {page?.length === 0 && (
          <p class="notification">
            {before.length ? "No more accounts." : "No account has a transaction yet."}
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
          <p class="notification">Choose an account to follow what happens on it.</p>
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

/** The accounts behind `after`, one more than a page has where there are more; asked for again while one looks at them. */
function useAccounts(after: string): { page: Transaction[] | null; reason: string } {
  const [answer, setAnswer] = useState<{
    after: string;
    page: Transaction[] | null;
    reason: string;
  }>({ after, page: null, reason: "" });
  const connection = connections.value;
  useEffect(() => {
    if (connection === 0) return;
    let timer: ReturnType<typeof setTimeout>;
    let left = false;
    const next = (): void => {
      timer = setTimeout(() => (document.hidden ? next() : refresh()), REFRESH_MS);
    };
    const refresh = (): void => {
      accounts(after, ACCOUNTS + 1)
        .then(
          (page) => ({ after, page, reason: "" }),
          (err: Error) => ({ after, page: null, reason: err.message }),
        )
        .then((given) => {
          if (left) return;
          setAnswer(given);
          next();
        });
    };
    refresh();
    return () => {
      left = true;
      clearTimeout(timer);
    };
  }, [after, connection]);
  return answer.after === after ? answer : { page: null, reason: "" };
}
