import * as z from "zod";

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const FORM = /^PT(?=\d)(?:(\d{1,3})H)?(?:(\d{1,4})M)?(?:(\d{1,5})S)?$/;
const MAX = 720 * HOUR;

/** An ISO 8601 duration of hours, minutes and seconds, e.g. `PT8H` or `PT1H30M`: more than nothing, at most 30 days. */
export const duration: z.ZodString = z
  .string()
  .refine(
    (text) => parseDuration(text) !== null,
    "expected a duration like PT8H or PT15M, more than nothing and at most PT720H",
  );

/** Milliseconds; null for anything but such a duration. */
export function parseDuration(text: string): number | null {
  const parts = FORM.exec(text);
  if (parts === null) return null;
  const [hours = 0, minutes = 0, seconds = 0] = parts.slice(1).map((digits) => Number(digits ?? 0));
  const total = hours * HOUR + minutes * MINUTE + seconds * SECOND;
  return total > 0 && total <= MAX ? total : null;
}

/** Milliseconds of a duration that a parsed policy holds. */
export function milliseconds(text: string): number {
  const parsed = parseDuration(text);
  if (parsed === null) throw new TypeError(`duration ${text}: a parsed policy has none like this`);
  return parsed;
}
