/** `2026-11-26 01:24:31 UTC`; the text itself where it is no time. */
export function absoluteTime(iso: string): string {
  const time = new Date(iso);
  return Number.isNaN(time.getTime()) ? iso : `${time.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

const units = [
  ["day", 86_400],
  ["hour", 3600],
  ["minute", 60],
  ["second", 1],
] as const;

/** "4 minutes ago"; "in 2 hours" where the clocks of browser and service disagree. */
export function relativeTime(iso: string, now: Date): string {
  const seconds = Math.round((now.getTime() - Date.parse(iso)) / 1000);
  if (Number.isNaN(seconds)) return "at an unknown time";
  const size = Math.abs(seconds);
  if (size < 5) return "just now";
  const [unit, length] = units.find(([, length]) => size >= length) ?? ["second", 1];
  const count = Math.floor(size / length);
  const text = `${count} ${unit}${count === 1 ? "" : "s"}`;
  return seconds > 0 ? `${text} ago` : `in ${text}`;
}
