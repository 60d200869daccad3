import * as z from "zod";
import { printableText } from "../../policy/index.ts";
import { AgentError } from "../errors.ts";

const word = z.string().max(256);
const number = z.number().min(0);

/** A session as the machine tells of it; what it says is shown and no more, so no more than its form is looked at. */
const session = z.object({
  session: number,
  scope: word,
  door: word.nullable(),
  standing: word,
  caller: z.object({ uid: number, pid: number, unit: word.nullable() }),
  since: word,
  idleSeconds: number,
  operations: number,
  refused: number,
  rate: z.object({ left: number, perMinute: number, burst: number }).nullable(),
  waitsFor: word.nullable(),
});

export type Session = z.infer<typeof session>;

const list = z.object({ sessions: z.array(session).max(10_000), more: number });

/** @throws AgentError ERR_CONTROL_MALFORMED */
export function readSessions(answer: unknown): z.infer<typeof list> {
  return readAs(list, answer);
}

export function readSession(answer: unknown): Session {
  return readAs(session, answer);
}

function readAs<T>(schema: z.ZodType<T>, answer: unknown): T {
  const read = schema.safeParse(answer);
  if (read.success) return read.data;
  throw new AgentError("ERR_CONTROL_MALFORMED", "sessions", {
    expected: "a list of this format",
    got: "another answer",
  });
}

const WIDTHS = { session: 8, scope: 20, door: 7, caller: 32, since: 24, idle: 7, operations: 11, refused: 8, rate: 10 };

export function sessionTable(sessions: readonly Session[], more: number): string {
  return [
    columns({
      ...{ session: "session", scope: "scope", door: "door", caller: "uid/pid unit", since: "since", idle: "idle" },
      ...{ operations: "operations", refused: "refused", rate: "rate left", rest: "waits for" },
    }),
    ...sessions.map(row),
    ...(more === 0 ? [] : [`and ${more} more: --scope NAME shows those of one scope`]),
  ].join("\n");
}

function row({
  session: id,
  scope,
  door,
  standing,
  caller,
  since,
  idleSeconds,
  operations,
  refused,
  rate,
  waitsFor,
}: Session): string {
  const { uid, pid, unit } = caller;
  return columns({
    ...{
      session: `${id}`,
      scope,
      door: door ?? "-",
      caller: `${uid}/${pid} ${unit ?? ""}`,
      since,
      idle: `${idleSeconds} s`,
    },
    ...{ operations: `${operations}`, refused: `${refused}`, rate: rate === null ? "-" : `${rate.left}/${rate.burst}` },
    rest: standing === "refused" ? "nothing: it is refused" : (waitsFor ?? "-"),
  });
}

function columns({ rest, ...texts }: Readonly<Record<keyof typeof WIDTHS | "rest", string>>): string {
  const cells = Object.entries(WIDTHS).map(([name, width]) => {
    const text = texts[name as keyof typeof WIDTHS]; // the keys of a literal
    return printableText(text.replaceAll("\n", " ")).padEnd(width);
  });
  return [...cells, printableText(rest)].join(" ").trimEnd();
}
