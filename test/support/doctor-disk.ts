// Fills the audit log's file system below argv[2] in two steps, below unshare(1) on a tmpfs of its own; prints what a doctor says before and after each.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { diskFindings, openFiles } from "../../agent/doctor/index.ts";

const root = process.argv[2] ?? "";
const files = openFiles(root);
const look = () => diskFindings(files, { auditLog: "/audit", stateVolume: true, store: null })[0]?.level;
const fill = (name: string, bytes: number) => writeFileSync(join(root, "audit", name), new Uint8Array(bytes));

const levels = [look()];
fill("first", 3_700_000);
levels.push(look());
fill("second", 450_000);
levels.push(look());
process.stdout.write(`${JSON.stringify(levels)}\n`);
