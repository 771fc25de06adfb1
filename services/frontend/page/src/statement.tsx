// A statement of an account by period: to read, to print and as a file.
import type { TargetedEvent } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Failure, LATER } from "./failure";
import {
  readEarlier,
  readLater,
  readStatement,
  save,
  type Part,
  type Statement as Data,
} from "./period";
import { useReading } from "./reading";
import { dayText, daysAgo, midnight, timeText } from "./time";

const DAYS = 30;

export function Statement({ iban }: { iban: string }) {
  const [open, setOpen] = useState(false);
  return (
    <details class="box" id="statement" onToggle={(it) => setOpen(it.currentTarget.open)}>
      <summary class="subtitle">Statement</summary>
      {open && <Content iban={iban} />}
    </details>
  );
}

/** A statement that was read, with the part of it that is shown. */
interface Shown {
  statement: Data;
  part: Part;
  /** The first and the last day, as in the form. */
  days: [string, string];
}

function Content({ iban }: { iban: string }) {
  const [days, setDays] = useState<[string, string]>([daysAgo(DAYS - 1), daysAgo(0)]);
  const { value: shown, loading, error, read, clear } = useReading<Shown>();
  const [first, last] = days;
  const submit = (event: TargetedEvent<HTMLFormElement>): void => {
    event.preventDefault();
    const [from, until] = [midnight(first), midnight(last, 1)].map((it) => it.toISOString());
    const period = { iban, from: from!, until: until! };
    clear();
    read(readStatement(period).then(([statement, part]) => ({ statement, part, days })));
  };
  return (
    <>
      <form class="bar" id="period" onSubmit={submit}>
        <Day id="first-day" label="From" value={first} set={(it) => setDays([it, last])} />
        <Day id="last-day" label="To" min={first} value={last} set={(it) => setDays([first, it])} />
        <button type="submit" class="button is-link" id="show-statement">
          Show
        </button>
      </form>
      <Failure what="The statement" error={error} remedy={LATER} />
      <p role="status">{loading && "Loading the statement…"}</p>
      {shown && (
        <Result
          shown={shown}
          turn={(to) => read(to(shown.statement, shown.part).then((part) => ({ ...shown, part })))}
        />
      )}
    </>
  );
}

function Day(props: {
  id: string;
  label: string;
  value: string;
  min?: string;
  set: (day: string) => void;
}) {
  return (
    <label>
      <span class="label">{props.label}</span>
      <input
        class="input"
        type="date"
        id={props.id}
        required
        value={props.value}
        min={props.min ?? "1970-01-01"}
        max={daysAgo(0)}
        onInput={({ currentTarget }) => props.set(currentTarget.value)}
      />
    </label>
  );
}

type Read = (statement: Data, part: Part) => Promise<Part>;

function Result({ shown, turn }: { shown: Shown; turn: (read: Read) => void }) {
  const { statement, part, days } = shown;
  const { iban, opening, closing, count } = statement;
  const { entries, start, isLast } = part;
  const table = useRef<HTMLDivElement>(null);
  const turnTo = (read: Read): void => {
    table.current?.focus();
    turn(read);
  };
  const isWhole = start === 0 && isLast;
  return (
    <>
      <div id="printed">
        <h2 class="title is-5">
          Account {iban}, {dayText(days[0])} to {dayText(days[1])}
        </h2>
        <dl class="balances">
          <dt>Opening balance</dt>
          <dd id="opening-balance">{opening}</dd>
          <dt>Closing balance</dt>
          <dd id="closing-balance">{closing}</dd>
        </dl>
        {entries.length === 0 ? (
          <p class="notification" id="no-entries">
            No transactions in this period.
          </p>
        ) : (
          <>
            <p id="shown-entries">
              {isWhole
                ? `Number of transactions: ${entries.length}`
                : `Transactions ${start + 1} to ${start + entries.length}` +
                  (count ? ` of ${count}` : "")}
            </p>
            <div
              class="table-container"
              role="region"
              aria-label="Transactions of the period"
              tabIndex={0}
              ref={table}
            >
              <Table part={part} />
            </div>
          </>
        )}
      </div>
      {entries.length > 0 && (
        <div class="bar">
          {!isWhole && (
            <nav class="bar" aria-label="Parts of the statement">
              <button
                type="button"
                class="button"
                id="earlier-entries"
                disabled={start === 0}
                onClick={() => turnTo(readEarlier)}
              >
                Earlier
              </button>
              <button
                type="button"
                class="button"
                id="later-entries"
                disabled={isLast}
                onClick={() => turnTo(readLater)}
              >
                Later
              </button>
            </nav>
          )}
          <button type="button" class="button" id="print-statement" onClick={() => print()}>
            {isWhole ? "Print" : "Print these"}
          </button>
          <Save shown={shown} />
        </div>
      )}
    </>
  );
}

// The roles stay when a narrow window shows rows as blocks.
function Table({ part }: { part: Part }) {
  return (
    <table class="table is-fullwidth is-narrow entries" id="entries" role="table">
      <thead role="rowgroup">
        <tr role="row">
          {["Time", "Description", "Counterparty", "Amount", "Balance"].map((name) => (
            <th scope="col" role="columnheader" key={name} class={right(name)}>
              {name}
            </th>
          ))}
        </tr>
      </thead>
      <tbody role="rowgroup">
        {part.entries.map(({ ref, time, descr, from_to, changed_by, new_balance }) => (
          <tr role="row" key={ref}>
            <td role="cell">
              <time dateTime={time ?? undefined}>{timeText(time)}</time>
            </td>
            <td role="cell">{descr}</td>
            <td role="cell">{from_to}</td>
            <td role="cell" class="has-text-right">
              {changed_by}
            </td>
            <td role="cell" class="has-text-right">
              {new_balance}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function right(column: string): string {
  return column === "Amount" || column === "Balance" ? "has-text-right" : "";
}

/** The button that reads the whole period into a file. */
function Save({ shown: { statement, days } }: { shown: Shown }) {
  // Number of transactions that were read; null while nothing is read.
  const [saved, setSaved] = useState<number | null>(null);
  const [reason, setReason] = useState("");
  // The current reading; a cancelled one is another one.
  const current = useRef({});
  const cancel = (): void => {
    current.current = {};
    setSaved(null);
  };
  useEffect(() => cancel, []);
  const start = (): void => {
    const own = (current.current = {});
    const isWanted = (): boolean => current.current === own;
    setSaved(0);
    setReason("");
    save(statement, (read) => {
      if (isWanted()) setSaved(read);
      return isWanted();
    })
      .then(
        (file) => file && download(file, `statement-${statement.iban}-${days.join("-")}.csv`),
        (err: Error) => isWanted() && setReason(`There is no file: ${err.message}.`),
      )
      .finally(() => isWanted() && cancel());
  };
  return (
    <>
      <button
        type="button"
        class="button"
        id="save-statement"
        onClick={saved === null ? start : cancel}
      >
        {saved === null ? "Download CSV" : `Cancel (${saved} read)`}
      </button>
      <span role="alert">{reason}</span>
    </>
  );
}

/** Time that a browser has to start a download. */
const DOWNLOAD_MS = 60_000;

function download(file: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), DOWNLOAD_MS);
}
