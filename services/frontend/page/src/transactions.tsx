// A live list of an account's transactions.
import type { Signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import { cursorOf, page, type Page, type Transaction } from "./bank";
import { Failure, LATER } from "./failure";
import { RETRY_MS, useTransactions, type Live } from "./live";
import { useReading, type Reading } from "./reading";
import { FIELDS, MAX_ITEMS, view, type Field } from "./session";
import { timeText } from "./time";

/** The live transactions of an account, as many as the user chose. */
export function useShown(iban: string): Signal<Live> {
  return useTransactions(iban, view.value.max);
}

/** The list and its controls. */
export function Transactions({ iban, live }: { iban: string; live: Signal<Live> }) {
  const { max } = view.value;
  const { list, error } = live.value;
  // The list at the time of the pause; null while the list is live.
  const [frozen, setFrozen] = useState<Transaction[] | null>(null);
  // A page of older transactions; without one the list is live.
  const older = useReading<Page>();
  useEffect(() => {
    setFrozen(null);
    older.clear();
  }, [iban, max]);
  const isLive = older.value === null;
  const shown = older.value?.edges.map(({ node }) => node) ?? frozen ?? list;
  return (
    <section aria-label={`Transactions of ${iban}`}>
      <div class="bar">
        <MaxItems />
        <button
          type="button"
          class="button is-small"
          id="pause"
          aria-pressed={frozen !== null}
          disabled={list === null || !isLive}
          onClick={() => setFrozen(frozen ? null : list)}
        >
          {frozen ? "Continue" : "Pause"}
        </button>
      </div>
      <Fields />
      <Failure
        what="Transactions"
        error={error}
        remedy={`This page tries again every ${RETRY_MS / 1000} seconds.`}
      />
      <Pages iban={iban} older={older} shown={shown ?? []} />
      {shown?.length === 0 && (
        <p class="notification" id="no-transactions">
          {isLive ? "No transactions yet." : "There are no older transactions."}
        </p>
      )}
      {shown === null && !error && (
        <p class="notification" role="status">
          Loading transactions…
        </p>
      )}
      {/* The key is the position: boxes stay in place and change their text, so no update shifts
          the layout. */}
      <div id="transactions" role="list" aria-label="The newest first">
        {shown?.slice(0, max).map((transaction, at) => (
          <Box key={at} transaction={transaction} fields={view.value.fields} />
        ))}
      </div>
    </section>
  );
}

/** Buttons for older transactions. A page of them stays the same while new ones arrive. */
function Pages(props: { iban: string; older: Reading<Page>; shown: Transaction[] }) {
  const { iban, older, shown } = props;
  const { max } = view.value;
  const last = shown.at(-1);
  const info = older.value?.pageInfo;
  // The first transaction of an account has the number 1.
  const hasOlder = info?.hasNextPage ?? (shown.length === max && last?.sequence !== "1");
  const readOlder = async (): Promise<Page> => {
    const after = info ? info.endCursor : last ? await cursorOf(last) : null;
    return page(iban, { first: max, after });
  };
  const readNewer = async (): Promise<Page | null> => {
    if (!info?.startCursor) return null;
    const newer = await page(iban, { last: max, before: info.startCursor });
    return newer.pageInfo.hasPreviousPage ? newer : null;
  };
  return (
    <>
      <nav class="bar" aria-label="Pages of transactions">
        <div class="buttons has-addons">
          <button
            type="button"
            class="button is-small"
            id="newest-transactions"
            disabled={!info}
            onClick={older.clear}
          >
            Newest
          </button>
          <button
            type="button"
            class="button is-small"
            id="newer-transactions"
            disabled={!info || older.loading}
            onClick={() => older.read(readNewer())}
          >
            Newer
          </button>
          <button
            type="button"
            class="button is-small"
            id="older-transactions"
            disabled={!hasOlder || older.loading}
            onClick={() => older.read(readOlder())}
          >
            Older
          </button>
        </div>
        <span role="status" id="page-of-transactions">
          {older.loading ? "Loading…" : info ? "Older transactions" : ""}
        </span>
      </nav>
      <Failure what="Other transactions" error={older.error} remedy={LATER} />
    </>
  );
}

// Browser tests read the first paragraph of the first column: the icon's span, then the amount's.
function Box({ transaction, fields }: { transaction: Transaction; fields: Field[] }) {
  const { id, direction, changed_by } = transaction;
  const credit = direction === "CREDIT";
  return (
    <div class="box transaction" id={`transaction-box-${id}`} role="listitem">
      <div class="columns is-mobile">
        <div class="column amount">
          <p>
            <span
              class={credit ? "icon credit" : "icon debit"}
              role="img"
              aria-label={credit ? "in" : "out"}
            >
              <Arrow up={credit} />
            </span>
            <span>{changed_by}</span>
          </p>
        </div>
        {FIELDS.map(
          ([field, label]) =>
            fields.includes(field) && (
              <div class={`column field-${field}`} key={field}>
                <p title={`${label}: ${text(transaction, field)}`}>
                  <span class="is-sr-only">{label}: </span>
                  {field === "time" && transaction.time ? (
                    <time dateTime={transaction.time}>{text(transaction, field)}</time>
                  ) : (
                    text(transaction, field)
                  )}
                </p>
              </div>
            ),
        )}
      </div>
    </div>
  );
}

function text(transaction: Transaction, field: Field): string {
  return field === "time" ? timeText(transaction.time) : transaction[field];
}

function Arrow({ up }: { up: boolean }) {
  return (
    <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
      <path
        d={up ? "M8 14V3M3.500 7.500 8 3l4.500 4.500" : "M8 2v11M3.500 8.500 8 13l4.500-4.500"}
      />
    </svg>
  );
}

function MaxItems() {
  return (
    <div class="buttons has-addons" role="group" aria-label="How many transactions to show">
      {MAX_ITEMS.map((max) => (
        <button
          type="button"
          key={max}
          id={`max-items-${max}`}
          class={max === view.value.max ? "button is-small is-link" : "button is-small"}
          aria-pressed={max === view.value.max}
          onClick={() => (view.value = { ...view.value, max })}
        >
          {max}
        </button>
      ))}
    </div>
  );
}

function Fields() {
  const { fields } = view.value;
  const toggle = (field: Field): void => {
    const others = fields.filter((it) => it !== field);
    view.value = {
      ...view.value,
      fields: others.length < fields.length ? others : [...fields, field],
    };
  };
  return (
    <fieldset class="bar fields">
      <legend class="is-sr-only">Fields to show</legend>
      {FIELDS.map(([field, label]) => (
        <label class="checkbox" key={field}>
          <input
            type="checkbox"
            id={`show-${field}`}
            checked={fields.includes(field)}
            onChange={() => toggle(field)}
          />{" "}
          {label}
        </label>
      ))}
    </fieldset>
  );
}
