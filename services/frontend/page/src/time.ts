// Times and days in the reader's language and time zone.
const format = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "medium" });
const dayFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "long" });

/** `time` as RFC 3339. */
export function timeText(time: string | null): string {
  return time === null ? "unknown" : format.format(new Date(time));
}

/** The day `days` before today, as the value of a date input: `2026-11-29`. */
export function daysAgo(days: number): string {
  const now = new Date();
  const day = new Date(now.getFullYear(), now.getMonth(), now.getDate() - days);
  return [day.getFullYear(), day.getMonth() + 1, day.getDate()]
    .map((part) => String(part).padStart(2, "0"))
    .join("-");
}

export function dayText(day: string): string {
  return dayFormat.format(midnight(day));
}

/** Midnight at the start of the day `days` after `day`. Not all days have 24 hours. */
export function midnight(day: string, days = 0): Date {
  const [year, month, date] = day.split("-").map(Number) as [number, number, number];
  return new Date(year, month - 1, date + days);
}
