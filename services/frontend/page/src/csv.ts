// A file of transactions for spreadsheets and programs: RFC 4180, in UTF-8.
import type { Entry } from "./bank";
import { decimal } from "./money";

export const HEADER = line(["time", "number", "description", "counterparty", "amount", "balance"]);

/** Times are in UTC as RFC 3339, amounts are in euros with a point. */
export function record(entry: Entry): string {
  return line([
    entry.time ?? "",
    entry.sequence,
    harmless(entry.descr),
    harmless(entry.from_to),
    decimal(entry.changed_by_cents),
    decimal(entry.new_balance_cents),
  ]);
}

/**
 * Other clients write these texts. A spreadsheet executes one that begins like a formula, so an
 * apostrophe precedes it. Programs that separate fields at other characters than commas can take
 * the part after such a character for a field.
 */
function harmless(text: string): string {
  // The last four are the full-width forms of the others.
  const formula = /(^|[,;|\t\r\n])(\s*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])/g;
  return text.replace(formula, "$1$2'");
}

function line(fields: string[]): string {
  return (
    fields
      .map((field) => (/[",\r\n]/.test(field) ? `"${field.replaceAll('"', '""')}"` : field))
      .join(",") + "\r\n"
  );
}
