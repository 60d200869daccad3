import {
  type ApprovalEvent,
  type ApprovalPolicy,
  type Approvals,
  createApprovals,
} from "../../agent/approvals/index.ts";
import type { ApprovalRequest } from "../../agent/broker/index.ts";
import { encodeSshKeyLine, toHex, utf8 } from "../../policy/index.ts";
import { type TestSshKey, testSshKey } from "./ssh-keys.ts";

export const WINDOW = 15 * 60_000;
const NAMES = ["alice", "bob", "carol", "erin", "mallory"] as const;
export type ApproverName = (typeof NAMES)[number];

/** Carol may not approve for the signer, Mallory is no approver of any scope; Erin's is a security key. */
export const keys: Readonly<Record<ApproverName, TestSshKey>> = {
  alice: testSshKey(),
  bob: testSshKey(),
  carol: testSshKey(),
  erin: testSshKey("ssh:"),
  mallory: testSshKey(),
};

export function lineOf({ key }: TestSshKey, comment = "", verifyRequired = false): string {
  return encodeSshKeyLine({ key, verifyRequired, comment });
}

const scope = { caller: "signer", keys: ["release-ec"], mechanisms: [{ type: "CKM_ECDSA" }] };
const rule = { required: 2, of: ["alice", "bob", "carol", "erin"], for: "operation", window: "PT15M" } as const;

export const POLICY: ApprovalPolicy = {
  serial: 7,
  approvers: Object.fromEntries(
    NAMES.map((name) => [name, { key: lineOf(keys[name], "desk"), notFor: name === "carol" ? ["signer"] : [] }]),
  ),
  scopes: [
    { ...scope, name: "signing", approvals: rule },
    { ...scope, name: "night", approvals: { ...rule, for: "window" } },
    { ...scope, name: "solo", approvals: { ...rule, required: 1 } },
    { ...scope, name: "free" },
  ],
};

export const REQUEST: ApprovalRequest = {
  ...{ scope: "signing", caller: "signer", key: "release-ec", keySpki: `sha256:${"11".repeat(32)}` },
  ...{ operation: "sign", mechanism: "CKM_ECDSA", parameters: "none", input: `sha256:${"ab".repeat(32)}` },
};

/** A machine's approvals, with clocks that stand until somebody sets them. */
export interface Machine {
  readonly approvals: Approvals;
  readonly events: ApprovalEvent[];
  /** Milliseconds since the machine started, and since 1970. */
  readonly clock: { boot: number; wall: number };
  /** What is in force, and what happens when a record is written: tests change both. */
  readonly live: { policy: ApprovalPolicy; record: () => Promise<void> };
  /** Opens a request, as a try of the caller's does; its id. */
  open(change?: Partial<ApprovalRequest>): string;
  textOf(id: string): Uint8Array;
  /** Signs what is pending under this id, and hands it in under it or another: `accepted`, or why not. */
  approve(id: string, name: ApproverName, under?: string): Promise<string>;
  /** Hands a signature in. */
  hand(id: string, armored: string): Promise<string>;
  /** The caller's try: served, or who has approved so far. */
  attempt(change?: Partial<ApprovalRequest>): string;
}

export function machine(boot = 1): Machine {
  const clock = { boot: 1_000, wall: Date.parse("2027-01-15T12:00:00Z") };
  const live: Machine["live"] = { policy: POLICY, record: async () => {} };
  const events: ApprovalEvent[] = [];
  let made = 0;
  const approvals = createApprovals({
    ...{
      policy: () => live.policy,
      policyDigest: `sha256:${"cd".repeat(32)}`,
      machine: () => `000b${"ef".repeat(32)}`,
    },
    ...{ bootNonce: new Uint8Array(32).fill(boot), now: () => clock.boot, wallClock: () => clock.wall },
    random: (size) => new Uint8Array(size).fill(++made),
    record: async (event) => {
      await live.record();
      events.push(event);
    },
  });
  const { gate } = approvals;
  const textOf = (id: string) => utf8(approvals.pending().find(({ request }) => request === id)?.text ?? "");
  const hand = async (id: string, armored: string) => {
    const answer = await approvals.approve(id, armored);
    return answer.kind === "accepted" ? "accepted" : answer.code;
  };
  return {
    ...{ approvals, events, clock, live, textOf, hand },
    open: (change) => gate.approvedBy({ ...REQUEST, ...change }).id,
    approve: (id, name, under = id) => hand(under, keys[name].armored(textOf(id))),
    attempt: (change) => {
      const request = { ...REQUEST, ...change };
      const { approvers } = gate.approvedBy(request);
      const required = live.policy.scopes.find(({ name }) => name === request.scope)?.approvals?.required ?? 0;
      if (approvers.length < required) return approvers.join(" ") || "nobody";
      gate.use(request);
      return "served";
    },
  };
}

/** An id of another machine's. */
export const STRANGE_ID = toHex(new Uint8Array(8).fill(0xee));
