// Writes to a verifier's store and says what was acknowledged. Before each statement it copies the store's files and says the statement's number:
// they are what a process that is killed there would leave.
import { copyFileSync, existsSync } from "node:fs";
import { DatabaseSync, StatementSync } from "node:sqlite";
import { enrolledView } from "../../attest/service/machine-state.ts";
import { openSqliteStore } from "../../attest/service/sqlite-store.ts";
import { makeEnrolment, softEccKey } from "./evidence-maker.ts";

const [path = ""] = process.argv.slice(2);
const say = (text: string) => process.stdout.write(`${text}\n`);
let statements = 0;
function beforeStatement(): void {
  statements += 1;
  for (const suffix of ["", "-wal"])
    if (existsSync(path + suffix)) copyFileSync(path + suffix, `${path}.${statements}${suffix}`);
  say(`statement ${statements}`);
}
for (const [prototype, method] of [
  [DatabaseSync.prototype, "exec"],
  [StatementSync.prototype, "run"],
  [StatementSync.prototype, "all"],
] as const) {
  const original = (prototype as unknown as Record<string, (...values: unknown[]) => unknown>)[method];
  Object.defineProperty(prototype, method, {
    value(...values: unknown[]) {
      beforeStatement();
      return original?.apply(this, values);
    },
  });
}

const at = "2026-06-01T00:00:00.000Z";
const keep = { reportsPerMachine: 10, bytesPerMachine: 1 << 30, eventsPerMachine: 10 };
const store = openSqliteStore(path, keep);
say("opened");
for (let index = 0; index < 2; index++) {
  const name = `m${process.pid}-${index}`;
  const key = await softEccKey();
  const enrolment = {
    ...makeEnrolment(key),
    name,
    ekName: `000b${index.toString(16).padStart(8, "0")}${process.pid.toString(16).padStart(56, "0")}`,
  };
  const enrolled = await store.enrol(enrolment, at);
  say(`enrolled ${name}`);
  const report = {
    ...{ at, codes: ["pcr-replay"], challenged: at, previous: null, result: null, reasons: [] },
    tier: "refused",
    challenge: { nonce: new Uint8Array(32).fill(index), bank: "sha256", pcrs: [0, 13] },
    evidence: new Uint8Array(20_000).fill(index),
  } as const;
  await store.change(enrolled.machine, {
    view: { ...enrolledView(at), state: "refused" },
    events: [{ at, kind: "refused", detail: {} }],
    report,
  });
  say(`reported ${name}`);
  await store.addToken(new TextEncoder().encode(name.padEnd(32)), name, "2999-01-01T00:00:00.000Z");
  say(`token ${name}`);
}
await store.close();
say("done");
