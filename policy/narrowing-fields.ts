/** What a change of one field does: it allows less, it allows more, or nothing but a launch could make it. */
export type ChangeKind = "narrows" | "widens" | "needs-launch";

/** One field that differs between two policies. */
export interface PolicyChange {
  readonly kind: ChangeKind;
  /** Where it stands, e.g. `scopes.release-signing.rate.perMinute`. */
  readonly field: string;
  /** What stands there, in one line; `none` for nothing. */
  readonly from: string;
  readonly to: string;
}

/** Compares what stands in one field of two policies. */
export type Compare<T> = (field: string, from: T, to: T) => readonly PolicyChange[];

/** One comparison for each field: a field that nobody has thought of here does not compile. */
export type FieldsOf<T> = { readonly [field in keyof Required<T>]: Compare<T[field]> };

export function fieldsOf<T extends object>(fields: FieldsOf<T>): Compare<T> {
  return (field, from, to) =>
    (Object.keys(fields) as (keyof T & string)[]).flatMap((name) =>
      fields[name](field === "" ? name : `${field}.${name}`, from[name], to[name]),
    );
}

/** Nothing is allowed by it. */
export const ignored: Compare<unknown> = () => [];

/** Any other value may allow what was not allowed. */
export const fixed: Compare<unknown> = (field, from, to) => differing("widens", field, from, to);

/** The launch has acted on it, so another value comes with a release and a new launch. */
export const launched: Compare<unknown> = (field, from, to) => differing("needs-launch", field, from, to);

/** A limit that may become lower. Absent: `absent`, by default no limit at all. */
export function atMost<T>(measure: (value: NonNullable<T>) => number, absent = Number.POSITIVE_INFINITY): Compare<T> {
  return ordered((value) => (value === undefined || value === null ? absent : measure(value)));
}

/** What has to be reached may become more. */
export const atLeast: Compare<number> = ordered((value) => -value);

export const number = (value: number): number => value;

/** @param allows the more, the more is allowed; what cannot be ordered is no proof of anything */
function ordered<T>(allows: (value: T) => number): Compare<T> {
  return (field, from, to) => {
    const [before, after] = [allows(from), allows(to)];
    if (before === after) return [];
    return differing(after < before ? "narrows" : "widens", field, from, to);
  };
}

/** What was absent may come, by which less is allowed; what is there is compared, and may not go. */
export function optional<T>(compare: Compare<T>): Compare<T | undefined> {
  return (field, from, to) => {
    if (from === undefined) return differing("narrows", field, from, to);
    return to === undefined ? differing("widens", field, from, to) : compare(field, from, to);
  };
}

/** A set to which nothing may come. */
export function subset<T>(name: (entry: T) => string): Compare<readonly T[]> {
  return (field, from, to) => setChanges(field, from.map(name), to.map(name), { came: "widens", went: "narrows" });
}

/** A set from which nothing may go. */
export const superset: Compare<readonly string[]> = (field, from, to) =>
  setChanges(field, from, to, { came: "narrows", went: "widens" });

interface SetKinds {
  readonly came: ChangeKind | null;
  readonly went: ChangeKind;
}

function setChanges(field: string, from: readonly string[], to: readonly string[], { came, went }: SetKinds) {
  const [before, after] = [new Set(from), new Set(to)];
  const added = to.filter((entry) => !before.has(entry));
  const gone = from.filter((entry) => !after.has(entry));
  return [
    ...(came === null ? [] : added.map((entry) => changeOf(came, field, "none", entry))),
    ...gone.map((entry) => changeOf(went, field, entry, "none")),
  ];
}

/**
 * Entries with names: those of both are compared, and one may go.
 * @param came what it is when one comes: null where nothing is allowed by an entry that nothing names
 */
export function entries<T>(compare: Compare<T>, came: ChangeKind | null): Compare<Readonly<Record<string, T>>> {
  return (field, from, to) => [
    ...setChanges(field, Object.keys(from), Object.keys(to), { came, went: "narrows" }),
    ...Object.entries(to).flatMap(([name, entry]) => {
      const before = Object.hasOwn(from, name) ? from[name] : undefined;
      return before === undefined ? [] : compare(`${field}.${name}`, before, entry);
    }),
  ];
}

function differing(kind: ChangeKind, field: string, from: unknown, to: unknown): readonly PolicyChange[] {
  const [before, after] = [inWords(from), inWords(to)];
  return before === after ? [] : [changeOf(kind, field, before, after)];
}

function changeOf(kind: ChangeKind, field: string, from: string, to: string): PolicyChange {
  return { kind, field, from, to };
}

/** The same text for the same value, whatever the order of its fields. */
function inWords(value: unknown): string {
  if (value === undefined) return "none";
  return typeof value === "string" ? value : JSON.stringify(value, sortedFields);
}

function sortedFields(_name: string, value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}
