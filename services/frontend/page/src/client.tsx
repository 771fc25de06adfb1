// Somebody's own account: log in, get money, pass it on.
import type { Signal } from "@preact/signals";
import type { ComponentChildren, TargetedEvent, TargetedKeyboardEvent } from "preact";
import { useRef, useState } from "preact/hooks";
import { logIn, transfer, type Transfer } from "./bank";
import type { Live } from "./live";
import { CENTS_MAX, euro, parseCents } from "./money";
import { session, type Session } from "./session";
import { Transactions, useShown } from "./transactions";

const DEPOSITS = [1000, 2000, 5000, 10000, 20000, 50000];

export function Client() {
  const account = session.value;
  return account ? <Account key={account.iban} account={account} /> : <LogIn />;
}

/** What the bank said last. */
interface Said {
  /** Counts, so that the same words are told again. */
  number: number;
  tone: "is-info" | "is-success" | "is-danger";
  text: string;
}

/** What takes longer is said to be on its way. */
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
        A new name opens an account; a known one needs its password. Both have at least 8
        characters. It is a simulation: use a password that you use nowhere else.
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
          Not logged in: {reason}
        </p>
      )}
    </div>
  );
}

function Account({ account }: { account: Session }) {
  const { iban, token } = account;
  const [said, setSaid] = useState<Said | null>(null);
  const live = useShown(iban);
  const say = (tone: Said["tone"], text: string): void =>
    setSaid((before) => ({ number: (before?.number ?? 0) + 1, tone, text }));
  const move = (wanted: Transfer, what: string): Promise<boolean> => {
    const timer = setTimeout(() => say("is-info", `${what} is on its way…`), SOON_MS);
    return transfer(wanted)
      .then(
        () => (say("is-success", `${what} is done.`), true),
        (err: Error) => (say("is-danger", `${what} was refused: ${err.message}`), false),
      )
      .finally(() => clearTimeout(timer));
  };
  return (
    <div class="columns is-desktop">
      <div class="column is-two-fifths-desktop">
        {/* Under the id of the form that it takes the place of: who is in, and the way out. */}
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
          {said && (
            <p key={said.number} class={`notification ${said.tone}`}>
              {said.text}
            </p>
          )}
        </div>
        <h2 class="subtitle">Transfer</h2>
        <TransferForm move={(wanted, what) => move({ ...wanted, from: iban, token }, what)} />
      </div>
      <div class="column">
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
    input.setCustomValidity(fits ? "" : `Whole cents, at most ${CENTS_MAX}`);
  };
  return (
    <Form id="transfer-form" submit={submit} waiting={waiting}>
      <Field label={cents === undefined ? "Amount in cents" : `Amount in cents (${euro(cents)})`}>
        <input
          class="input"
          name="amount"
          inputMode="numeric"
          required
          autoComplete="off"
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

/** A form whose fields are its `div`s. Enter goes on to the first field that is empty, and submits when none is. */
function Form(props: {
  id: string;
  waiting: boolean;
  submit: (form: HTMLFormElement) => void;
  children: ComponentChildren;
}) {
  const form = useRef<HTMLFormElement>(null);
  const submit = (event: TargetedEvent<HTMLFormElement, Event>): void => {
    event.preventDefault();
    if (!props.waiting && form.current?.reportValidity()) props.submit(form.current);
  };
  const enter = (event: TargetedKeyboardEvent<HTMLFormElement>): void => {
    if (event.key !== "Enter" || !(event.target instanceof HTMLInputElement)) return;
    const empty = [...event.currentTarget.querySelectorAll("input")].find(
      (input) => input.value === "",
    );
    if (!empty) return;
    event.preventDefault();
    empty.focus();
  };
  return (
    <form id={props.id} class="block" ref={form} onSubmit={submit} onKeyDown={enter} noValidate>
      {props.children}
    </form>
  );
}

// The label is around the input, not beside it: so the n-th `div` among the children of a form has the n-th input and no other.
function Field({ label, children }: { label: string; children: ComponentChildren }) {
  return (
    <div class="field">
      <div class="control">
        <label>
          <span class="label">{label}</span>
          {children}
        </label>
      </div>
    </div>
  );
}

// An `a` without a target is plain text: the talk's browser test clicks on one.
function Submit({ waiting, children }: { waiting: boolean; children: string }) {
  return (
    <div class="field">
      <div class="control">
        <button type="submit" class="button is-link is-fullwidth" aria-disabled={waiting}>
          <a>{waiting ? "Waiting for the bank…" : children}</a>
        </button>
      </div>
    </div>
  );
}

function texts(form: HTMLFormElement, ...names: string[]): string[] {
  const data = new FormData(form);
  return names.map((name) => String(data.get(name) ?? ""));
}
