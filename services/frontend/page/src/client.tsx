// The client's page: login, deposits, transfers and transactions of one account.
import type { Signal } from "@preact/signals";
import { useState } from "preact/hooks";
import { logIn, logOutEverywhere, transfer, type Transfer } from "./bank";
import { Field, Form, Submit, texts } from "./form";
import type { Live } from "./live";
import { CENTS_MAX, euro, parseCents } from "./money";
import { session, type Session } from "./session";
import { Statement } from "./statement";
import { Transactions, useShown } from "./transactions";

const DEPOSITS = [1000, 2000, 5000, 10000, 20000, 50000];

export function Client() {
  const account = session.value;
  return account ? <Account key={account.iban} account={account} /> : <LogIn />;
}

/** The message about the last deposit or transfer. */
interface Message {
  /** Changes with each message, so that screen readers announce a repeated text again. */
  number: number;
  tone: "is-info" | "is-success" | "is-warning" | "is-danger";
  text: string;
}

/** After this time without a result, the message says that the transfer is on its way. */
const SOON_MS = 500;

function LogIn() {
  const [reason, setReason] = useState("");
  const [waiting, setWaiting] = useState(false);
  const submit = (form: HTMLFormElement): void => {
    const [username, password] = texts(form, "username", "password") as [string, string];
    setWaiting(true);
    setReason("");
    logIn(username, password).then(
      (account) => (session.value = { username, ...account }),
      (err: Error) => {
        setReason(err.message);
        setWaiting(false);
      },
    );
  };
  return (
    <div class="narrow">
      <p class="block">
        A new user name opens an account; a known one needs its password. Both have at least 8
        characters. This is a simulation: use a password that you use nowhere else.
      </p>
      <Form id="login-form" submit={submit} waiting={waiting}>
        <Field label="User name">
          <input
            class="input"
            name="username"
            required
            minLength={8}
            maxLength={128}
            autoComplete="username"
            autoCapitalize="none"
            spellcheck={false}
          />
        </Field>
        <Field label="Password">
          <input
            class="input"
            name="password"
            type="password"
            required
            minLength={8}
            maxLength={128}
            autoComplete="current-password"
          />
        </Field>
        <Submit waiting={waiting}>Log in or register</Submit>
      </Form>
      {reason && (
        <p class="notification is-danger" role="alert" id="login-reason">
          Login failed: {reason}
        </p>
      )}
    </div>
  );
}

function Account({ account }: { account: Session }) {
  const { iban, token } = account;
  const [message, setMessage] = useState<Message | null>(null);
  const live = useShown(iban);
  const say = (tone: Message["tone"], text: string): void =>
    setMessage((before) => ({ number: (before?.number ?? 0) + 1, tone, text }));
  const move = (wanted: Transfer, what: string): Promise<boolean> => {
    const timer = setTimeout(() => say("is-info", `${what} is on its way…`), SOON_MS);
    return transfer(wanted)
      .then(
        (done) => {
          if (done) say("is-success", `${what} is done.`);
          else
            say("is-warning", `${what} has no result yet. Check your transactions before a retry.`);
          return done;
        },
        (err: Error) => (say("is-danger", `${what} was refused: ${err.message}`), false),
      )
      .finally(() => clearTimeout(timer));
  };
  const logOut = (): void => {
    const end = (): void => {
      // The bank may have closed the connection before its response, and the user has logged in.
      if (session.value?.token === token) session.value = null;
    };
    logOutEverywhere(token).then(end, (err: Error) =>
      say("is-danger", `The other logins are still valid: ${err.message}.`),
    );
  };
  return (
    <div class="columns is-desktop">
      <div class="column is-two-fifths-desktop">
        {/* Has the id of the login form, which it replaces: the talk's browser test uses it. */}
        <div id="login-form" class="box">
          <div>
            Logged in as <strong id="username">{account.username}</strong>
          </div>
          <div>
            Account <strong id="iban">{iban}</strong>
          </div>
          <div>
            Balance <Balance live={live} />
          </div>
          <div>
            <button
              type="button"
              class="button is-small"
              id="logout"
              onClick={() => (session.value = null)}
            >
              Log out
            </button>{" "}
            <button type="button" class="button is-small" id="logout-everywhere" onClick={logOut}>
              Log out everywhere
            </button>
          </div>
        </div>
        <h2 class="subtitle">Deposit</h2>
        <div class="deposits" role="group" aria-label="Deposit cash">
          {DEPOSITS.map((amount) => (
            <button
              type="button"
              key={amount}
              class="button"
              id={`deposit-${amount}`}
              onClick={() =>
                move(
                  { token: "cash", amount, from: "cash", to: iban, descr: "deposit" },
                  `The deposit of ${euro(amount)}`,
                )
              }
            >
              €{amount / 100}
            </button>
          ))}
        </div>
        <div aria-live="polite" id="said" class="said">
          {message && (
            <p key={message.number} class={`notification ${message.tone}`}>
              {message.text}
            </p>
          )}
        </div>
        <h2 class="subtitle">Transfer</h2>
        <TransferForm move={(wanted, what) => move({ ...wanted, from: iban, token }, what)} />
      </div>
      <div class="column">
        <Statement iban={iban} />
        <h2 class="subtitle">Transactions</h2>
        <Transactions iban={iban} live={live} />
      </div>
    </div>
  );
}

function Balance({ live }: { live: Signal<Live> }) {
  const { list } = live.value;
  return <strong id="balance">{list === null ? "…" : (list[0]?.new_balance ?? euro(0))}</strong>;
}

const WRONG_CENTS = `Whole cents, at most ${CENTS_MAX}`;

function TransferForm({
  move,
}: {
  move: (wanted: Pick<Transfer, "amount" | "to" | "descr">, what: string) => Promise<boolean>;
}) {
  const [waiting, setWaiting] = useState(false);
  const [typed, setTyped] = useState("");
  const cents = parseCents(typed);
  const submit = (form: HTMLFormElement): void => {
    const [to, descr] = texts(form, "to", "descr") as [string, string];
    if (cents === undefined) return;
    setWaiting(true);
    void move({ amount: cents, to: to.trim(), descr }, `The transfer of ${euro(cents)}`).then(
      (done) => {
        setWaiting(false);
        if (done) {
          form.reset();
          setTyped("");
        }
      },
    );
  };
  const check = (input: HTMLInputElement): void => {
    setTyped(input.value);
    const fits = input.value === "" || parseCents(input.value) !== undefined;
    input.setCustomValidity(fits ? "" : WRONG_CENTS);
  };
  const hint = cents === undefined ? WRONG_CENTS : `= ${euro(cents)}`;
  return (
    <Form id="transfer-form" submit={submit} waiting={waiting}>
      <Field label="Amount in cents" hint={{ id: "amount-in-euros", text: typed && hint }}>
        <input
          class="input"
          name="amount"
          inputMode="numeric"
          required
          autoComplete="off"
          aria-describedby="amount-in-euros"
          onInput={(event) => check(event.currentTarget)}
        />
      </Field>
      <Field label="To">
        <input
          class="input"
          name="to"
          required
          maxLength={128}
          autoComplete="off"
          autoCapitalize="none"
          spellcheck={false}
        />
      </Field>
      <Field label="Description">
        <input class="input" name="descr" required maxLength={250} autoComplete="off" />
      </Field>
      <Submit waiting={waiting}>Transfer</Submit>
    </Form>
  );
}
