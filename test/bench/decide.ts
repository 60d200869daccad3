import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openAudit } from "../../agent/audit/open.ts";
import { type AuditEntry, EMPTY_HEAD, encodeRecord } from "../../agent/audit/record.ts";
import { type Decision, type DecisionRequest, decide, parsePolicy } from "../../policy/index.ts";
import { AMPLE } from "../support/decision.ts";
import { documentBytes, policyDocument, SIGNER_EXE, SIGNER_UID } from "../support/policy-document.ts";
import { median, type Row, type Suite, timeRow } from "./bench.ts";

const SCOPES = 64;
const DECISIONS = 20_000;
const RECORDS = 10_000;
/** Runs that are not counted. */
const WARM_UP = 3;

/** `decide`: what one decision costs. `audit-append`: what one record costs, written, against the bare write(2) of as many bytes. */
export const decideSuite: Suite = {
  ids: ["decide", "audit-append"],
  run: async (wanted, { iterations }) => [
    ...(wanted.has("decide") ? [await measureDecision(iterations)] : []),
    ...(wanted.has("audit-append") ? [await measureAppend(iterations)] : []),
  ],
};

/** In the last of 64 scopes, with a rate, a key's rate and a budget, by the last mechanism of its list: everything is looked at, and allowed. */
function lastScope(): { readonly policy: ReturnType<typeof parsePolicy>; readonly request: DecisionRequest } {
  const document = policyDocument();
  Object.assign(document.keys["release-ec"] ?? {}, { rate: { perMinute: 600, burst: 60 } });
  document.scopes = Array.from({ length: SCOPES }, (_, index) => ({
    ...{ name: `scope-${index}`, caller: "release-signer", key: "release-ec", audit: "written" },
    mechanisms: [{ type: "CKM_ECDSA_SHA256" }, { type: "CKM_ECDSA", digest: "sha256" }],
    ...{ rate: { perMinute: 600, burst: 60 }, budget: { operations: 1000 } },
    valid: { from: "2026-11-01T00:00:00Z", until: "2026-12-01T00:00:00Z" },
  }));
  const request: DecisionRequest = {
    ...{ ...AMPLE, scope: `scope-${SCOPES - 1}`, key: "release-ec", operation: "sign", mechanism: "CKM_ECDSA" },
    ...{ caller: { uid: SIGNER_UID, exe: SIGNER_EXE, unit: null }, parameters: { kind: "none" } },
    input: { kind: "data", bytes: new Uint8Array(32) },
  };
  return { policy: parsePolicy(documentBytes(document)), request };
}

/** Processor time: a decision waits for nothing. Of the peer, a microsecond, `target` are allowed. The median of the runs. */
async function measureDecision(iterations: number): Promise<Row> {
  const { policy, request } = lastScope();
  const times: number[] = [];
  for (let run = -WARM_UP; run < iterations; run++) {
    const time = await threadTime(DECISIONS, () => requireAllowed(decide(policy, request)));
    if (run >= 0) times.push(time);
  }
  const what = `processor time of one decision without approvals, in the last of ${SCOPES} scopes, in us`;
  return { ...timeRow({ id: "decide", what, target: 10 }, { ours: median(times), peer: 1 }), unit: "us" };
}

function requireAllowed({ allow }: Decision): void {
  if (!allow) throw new Error("the request is refused");
}

/** Microseconds of the processor that one signature takes of the policy (a decision without the data, one with it) and of the audit log. */
export interface OperationCost {
  readonly policy: number;
  readonly audit: number;
}

/** By the same policy and record as the rows: everything in it is looked at. */
export async function measureOperation(): Promise<OperationCost> {
  const { policy, request } = lastScope();
  const pending: DecisionRequest = { ...request, input: { kind: "pending" } };
  const decideBoth = () => {
    requireAllowed(decide(policy, pending));
    requireAllowed(decide(policy, request));
  };
  const directory = mkdtempSync(join(tmpdir(), "ironclaw-append-"));
  const log = openAudit({ directory: join(directory, "log"), now: Date.now, anchor: null });
  try {
    const times: { readonly policy: number[]; readonly audit: number[] } = { policy: [], audit: [] };
    for (let run = 0; run < 2 * WARM_UP; run++) {
      times.policy.push(await threadTime(DECISIONS, decideBoth));
      times.audit.push(await threadTime(RECORDS, () => log.append(ENTRY, "written")));
    }
    return { policy: median(times.policy.slice(WARM_UP)), audit: median(times.audit.slice(WARM_UP)) };
  } finally {
    log.close();
    rmSync(directory, { recursive: true });
  }
}

/** Processor time of the thread: the synchronisation that follows is one for all records of a moment, and another thread's. */
async function measureAppend(iterations: number): Promise<Row> {
  const directory = mkdtempSync(join(tmpdir(), "ironclaw-append-"));
  const log = openAudit({ directory: join(directory, "log"), now: Date.now, anchor: null });
  const fd = openSync(join(directory, "bare"), "a");
  const { line } = encodeRecord(ENTRY, EMPTY_HEAD, new Date().toISOString());
  const times: { readonly ours: number[]; readonly peer: number[] } = { ours: [], peer: [] };
  const ways = {
    ours: () => log.append(ENTRY, "written"),
    peer: async () => void writeSync(fd, line),
  };
  try {
    for (let run = -WARM_UP; run < iterations; run++) {
      for (const way of run % 2 === 0 ? (["ours", "peer"] as const) : (["peer", "ours"] as const)) {
        const time = await threadTime(RECORDS, ways[way]);
        if (run >= 0) times[way].push(time);
      }
    }
    const what = `processor time of one audit record of ${line.length} bytes, chained and written, vs write(2) of as many bytes, in us`;
    const compared = { ours: median(times.ours), peer: median(times.peer) };
    return { ...timeRow({ id: "audit-append", what, target: 8 }, compared), unit: "us" };
  } finally {
    log.close();
    closeSync(fd);
    rmSync(directory, { recursive: true });
  }
}

/** Microseconds of the processor for each of so many. */
export async function threadTime(count: number, act: () => unknown): Promise<number> {
  const before = process.threadCpuUsage();
  for (let index = 0; index < count; index++) {
    const done = act();
    if (done instanceof Promise) await done;
  }
  const { user, system } = process.threadCpuUsage(before);
  return (user + system) / count;
}

const ENTRY: AuditEntry = {
  caller: { uid: SIGNER_UID, pid: 4711, exe: SIGNER_EXE },
  ...{ scope: "release-signing", key: "release-ec", mechanism: "CKM_ECDSA", operation: "sign" },
  ...{ inputDigest: `sha256:${"d1".repeat(32)}`, decision: "allow", step: null, reason: "release-signing/CKM_ECDSA" },
  approvals: [],
};
