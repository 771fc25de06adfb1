// The bank employee's page: accounts in pages, a search, and the transactions of one account. An
// employee signs in with a token if the ledger is not public.
import { useEffect, useRef, useState } from "preact/hooks";
import { accounts, checkEmployee, connections, type AccountPage } from "./bank";
import { Failure } from "./failure";
import { Field, Form, Submit, texts } from "./form";
import type { BankError } from "./problem";
import { employeeToken } from "./session";
import { timeText } from "./time";
import { Transactions, useShown } from "./transactions";

const ACCOUNTS = 20;
const REFRESH_MS = 2_000;

export function BankEmployee() {
  return <Accounts key={employeeToken.value ?? ""} />;
}

function Accounts() {
  // The cursor before each page after the first one.
  const [before, setBefore] = useState<string[]>([]);
  const [followed, setFollowed] = useState<string | null>(null);
  const [typed, setTyped] = useState("");
  // Ibans are often written in groups of four.
  const prefix = typed.replace(/\s/g, "").toUpperCase();
  const { page, error } = useAccounts(prefix, before.at(-1) ?? null);
  const list = page?.edges.map(({ node }) => node);
  const more = page?.pageInfo.hasNextPage;
  const previous = before.length * ACCOUNTS;
  const failure = <Failure what="Accounts" error={error} remedy="This page tries again." />;
  if (error?.isDenied) {
    return (
      <>
        {failure}
        <SignIn />
      </>
    );
  }
  return (
    <div class="columns is-desktop">
      <div class="column is-narrow-desktop">
        {employeeToken.value && (
          <div class="bar">
            <span>Signed in as an employee</span>
            <button
              type="button"
              class="button is-small"
              id="sign-out"
              onClick={() => setToken(null)}
            >
              Sign out
            </button>
          </div>
        )}
        <div class="search">
          <label>
            <span class="label">Beginning of the account number</span>
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
            {prefix && list && `Matches: ${more ? "more than " : ""}${previous + list.length}`}
          </p>
        </div>
        {failure}
        {!list && !error && (
          <p class="notification" role="status">
            Loading accounts…
          </p>
        )}
        {list?.length === 0 && (
          <p class="notification" id="no-accounts">
            {before.length
              ? "There are no more accounts."
              : prefix
                ? `No account number begins with “${prefix}”.`
                : "The bank has no accounts yet."}
          </p>
        )}
        {/* The roles stay when a narrow window shows rows as blocks. */}
        {!!list?.length && (
          <div class="table-container" role="region" aria-label="Accounts" tabIndex={0}>
            <table class="table is-fullwidth is-narrow is-hoverable" id="accounts" role="table">
              <thead role="rowgroup">
                <tr role="row">
                  <th scope="col" role="columnheader">
                    Account
                  </th>
                  <th scope="col" role="columnheader" class="has-text-right">
                    Balance
                  </th>
                  <th scope="col" role="columnheader" class="has-text-right">
                    Last change
                  </th>
                </tr>
              </thead>
              <tbody role="rowgroup">
                {list.map(({ iban, balance, last_change }) => (
                  <tr role="row" key={iban} class={iban === followed ? "followed" : ""}>
                    <td role="cell">
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
                    <td role="cell" class="has-text-right">
                      {balance}
                    </td>
                    <td role="cell" class="has-text-right">
                      {last_change ? (
                        <>
                          {last_change.changed_by}
                          <time dateTime={last_change.time ?? undefined}>
                            {timeText(last_change.time)}
                          </time>
                        </>
                      ) : (
                        "never used"
                      )}
                    </td>
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
            onClick={() => setBefore([...before, page!.pageInfo.endCursor!])}
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

/** Signs in, or out with null. The content changes, so the heading takes the focus. */
function setToken(token: string | null): void {
  employeeToken.value = token;
  document.querySelector("h1")?.focus();
}

function SignIn() {
  const [reason, setReason] = useState("");
  const [waiting, setWaiting] = useState(false);
  const submit = (form: HTMLFormElement): void => {
    const token = texts(form, "token")[0]!.trim();
    setWaiting(true);
    setReason("");
    checkEmployee(token).then(
      () => setToken(token),
      (err: Error) => {
        setReason(err.message);
        setWaiting(false);
      },
    );
  };
  return (
    <div class="narrow">
      <p class="block">
        Only an employee of the bank may search all accounts. An employee signs in with a token,
        which this page forgets when the tab is closed.
      </p>
      <Form id="employee-form" submit={submit} waiting={waiting}>
        <Field label="Employee token">
          <input
            class="input"
            name="token"
            type="password"
            required
            maxLength={256}
            autoComplete="off"
          />
        </Field>
        <Submit waiting={waiting}>Sign in</Submit>
      </Form>
      {reason && (
        <p class="notification is-danger" role="alert" id="employee-reason">
          Sign-in failed: {reason}.
        </p>
      )}
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

interface Answer {
  /** What was asked for. */
  key: string;
  /** Null until the accounts are loaded. */
  page: AccountPage | null;
  /** Why they cannot be loaded; null if they can. */
  error: BankError | null;
}

/** A page of accounts, refreshed while the document is visible. */
function useAccounts(prefix: string, after: string | null): Answer {
  const key = `${prefix} ${after}`;
  const [answer, setAnswer] = useState<Answer>({ key, page: null, error: null });
  const connection = connections.value;
  useEffect(() => {
    if (connection === 0) return;
    let timer: ReturnType<typeof setTimeout>;
    let left = false;
    let shown: AccountPage | null = null;
    const wait = (): void => {
      timer = setTimeout(() => (document.hidden ? wait() : refresh()), REFRESH_MS);
    };
    const refresh = (): void => {
      accounts(prefix, after, ACCOUNTS)
        .then(
          (page) => ({ key, page, error: null }),
          // The accounts that are shown stay.
          (error: BankError) => ({ key, page: shown, error }),
        )
        .then((given) => {
          if (left) return;
          shown = given.page;
          setAnswer(given);
          if (!given.error?.isFinal) wait();
        });
    };
    refresh();
    return () => {
      left = true;
      clearTimeout(timer);
    };
  }, [key, connection]);
  return answer.key === key ? answer : { key, page: null, error: null };
}
