import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { type Approvals, openApprovals, parseApprovalText } from "../../../agent/approvals/index.ts";
import { openAudit } from "../../../agent/audit/open.ts";
import { readAudit } from "../../../agent/audit/verify.ts";
import { type Policy, parsePolicy, sha256Hex, utf8 } from "../../../policy/index.ts";
import { keys, lineOf } from "../../support/approvals-fixture.ts";
import { type BrokerFixture, startBroker } from "../../support/broker-fixture.ts";
import { DIGEST, openSession, sign, signInit } from "../../support/broker-session.ts";
import { documentBytes, type PolicyDocument } from "../../support/policy-document.ts";
import type { RawClient } from "../../support/rpc-client.ts";

const REJECTED = 0x200n;
const ids = ["alice", "bob", "carol"] as const;

let broker: BrokerFixture;
let approvals: Approvals;
let directory: string;
afterEach(async () => {
  await broker.close();
  rmSync(directory, { recursive: true });
});

/** A broker on a real socket, whose signing scope needs two approvals, with the approvals of a machine. */
async function start(kind: "operation" | "window"): Promise<RawClient> {
  directory = mkdtempSync(join(tmpdir(), "ironclaw-approvals-"));
  const audit = openAudit({ directory: join(directory, "audit.log"), now: Date.now, anchor: null });
  let document: PolicyDocument | null = null;
  let policy: Policy | null = null;
  const inForce = () => (policy ??= parsePolicy(documentBytes(document ?? expect.fail("no document"))));
  const akName = () => Uint8Array.of(0, 11, ...new Uint8Array(32).fill(1));
  const change = (made: PolicyDocument) => {
    const notFor = (name: string) => (name === "carol" ? ["release-signer"] : []);
    const approvers = ids.map((name) => [name, { key: lineOf(keys[name]), notFor: notFor(name) }]);
    Object.assign(made, { approvers: Object.fromEntries(approvers) });
    Object.assign(made.scopes[0] ?? {}, { approvals: { required: 2, of: ids, for: kind, window: "PT15M" } });
    document = made;
    approvals = openApprovals({
      policy: inForce,
      policyBytes: utf8("{}"),
      akName,
      audit,
      now: () => performance.now(),
    });
  };
  const gate = {
    approvedBy: (request: Parameters<Approvals["gate"]["use"]>[0]) => approvals.gate.approvedBy(request),
    use: (request: Parameters<Approvals["gate"]["use"]>[0]) => approvals.gate.use(request),
  };
  broker = await startBroker({ change, parts: { approvals: gate } });
  return openSession(broker);
}

async function signOnce(client: RawClient, data = DIGEST): Promise<bigint> {
  const init = await signInit(client);
  return init.rv === 0n ? (await sign(client, data)).rv : init.rv;
}

async function approve(name: (typeof ids)[number]): Promise<string> {
  const [{ request, text } = { request: "", text: "" }] = approvals.pending();
  const answer = await approvals.approve(request, keys[name].armored(utf8(text)));
  return answer.kind === "accepted" ? "accepted" : answer.code;
}

const records = () => readAudit(join(directory, "audit.log"), 1, 100);

test("I7: a signature that needs two approvals is made once, by the input that was approved, and the log says who", async () => {
  const client = await start("operation");
  expect(await signOnce(client)).toBe(REJECTED);
  const input = `sha256:${sha256Hex(DIGEST)}`;
  expect(parseApprovalText(utf8(approvals.pending()[0]?.text ?? ""))).toMatchObject({
    ...{ scope: "release-signing", caller: "release-signer", key: "release-ec", operation: "sign" },
    ...{ mechanism: "CKM_ECDSA", parameters: "none", input },
  });
  expect(await approve("alice")).toBe("accepted");
  expect(await approve("carol")).toBe("not-for-caller");
  expect(await signOnce(client)).toBe(REJECTED);
  expect(await approve("bob")).toBe("accepted");
  const other = Uint8Array.from(DIGEST, (byte) => byte ^ 1);
  expect(await signOnce(client, other)).toBe(REJECTED);
  expect([await signOnce(client), await signOnce(client)]).toEqual([0n, REJECTED]);
  expect(broker.requests.length).toBe(1);
  expect(records().map(({ operation, decision, step, reason }) => [operation, decision, step, reason])).toEqual([
    ["approve", "allow", null, expect.stringMatching(/^alice: 1 of 2 for request [0-9a-f]{16}$/)],
    ["approve", "deny", "approvals", "carol: not-for-caller: carol may not approve for release-signer"],
    ["approve", "allow", null, expect.stringMatching(/^bob: 2 of 2/)],
  ]);
  expect(records()[0]).toMatchObject({ scope: "release-signing", key: "release-ec", inputDigest: input, caller: null });
});

test("I7: a window opens the scope for whatever it allows, and only once two have approved it", async () => {
  const client = await start("window");
  expect(await signOnce(client)).toBe(REJECTED);
  expect(await approve("alice")).toBe("accepted");
  expect(await signOnce(client)).toBe(REJECTED);
  expect(await approve("bob")).toBe("accepted");
  const other = Uint8Array.from(DIGEST, (byte) => byte ^ 1);
  expect([await signOnce(client), await signOnce(client, other), await signOnce(client)]).toEqual([0n, 0n, 0n]);
});

test("I10: what its caller may not do at all waits for nobody", async () => {
  const client = await start("operation");
  expect(await signOnce(client, DIGEST.slice(1))).not.toBe(0n);
  expect(approvals.pending()).toEqual([]);
});
