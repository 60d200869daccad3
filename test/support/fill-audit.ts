// Fills the filesystem below argv[2] with an audit log, below unshare(1) on a tmpfs of its own; prints what it met as JSON.
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openAudit } from "../../agent/audit/open.ts";
import { ENTRY } from "./audit-fixture.ts";

const root = process.argv[2] ?? "";
const directory = join(root, "log");
const log = openAudit({ directory, now: Date.now, anchor: null });
const codes: string[] = [];
let records = 0;
const fill = async (): Promise<string> => {
  for (;;) {
    log.measure();
    const [warning] = log.warnings;
    if (warning !== undefined && !codes.includes(warning.code)) codes.push(warning.code);
    try {
      await log.append(ENTRY, "written");
      records += 1;
    } catch (error) {
      return error instanceof Error ? error.message : "";
    }
  }
};
const refused = await fill();
const statement = { kind: "retention", first: 2 } as const;
const reserved = await log.append({ ...ENTRY, operation: "retention", statement }, "durable").then(
  () => true,
  () => false,
);
// Somebody else takes the reserve: now the system call itself fails.
let blocks = 0;
try {
  for (; ; blocks += 1) writeFileSync(join(root, `block-${blocks}`), new Uint8Array(4096));
} catch {
  // full
}
let stopped = "";
for (let index = 0; index < 100 && stopped === ""; index += 1) {
  const more = log.append({ ...ENTRY, operation: "retention", statement }, "written");
  stopped = await more.then(
    () => "",
    (error: Error) => String(error.cause),
  );
}
log.close();
console.log(
  JSON.stringify({
    ...{ codes, records, refused, reserved, stopped, last: log.warnings[0]?.code },
    files: readdirSync(directory).length,
  }),
);
