import { type Approvals, openApprovals } from "../../../agent/approvals/index.ts";
import type { Broker } from "../../../agent/broker/index.ts";
import { Restrictions } from "../../../agent/restrictions/index.ts";
import { createTurns } from "../../../agent/turns.ts";
import { type Policy, utf8 } from "../../../policy/index.ts";
import { provisionRecords } from "../../../seal/index.ts";
import { openTss } from "../../support/sealing-bench.ts";
import { openSshFolder } from "../../support/ssh-keys.ts";
import { startSwtpm } from "../../support/swtpm.ts";
import { EVIL, GOOD } from "../attacks.ts";
import type { Lab } from "../bench.ts";
import { hardenedPolicy } from "../deliberately-weak-policy.ts";
import type { Step, StepResult, Try } from "../step.ts";
import { signRelease } from "./harden-use.ts";

export const HARDEN_PEOPLE: readonly Step[] = [
  {
    ...{ number: 10, part: "harden", title: "Approvals" },
    attacked: "a message of the attacker's, while a person approves another one",
    change: "approvals: alice has to approve each operation by its digest",
    enforcedBy: "the broker; what it believes is alice's Ed25519 key, over this request of this boot",
    run: approvals,
  },
  {
    ...{ number: 11, part: "harden", title: "Freeze" },
    attacked: "a scope whose caller is known to be taken over, before and after a reboot",
    change: "none: ironclaw freeze, and no new policy",
    enforcedBy: "the broker, at once; after a reboot by bits of the TPM that can be set and not cleared",
    run: freeze,
  },
];

async function approvals(lab: Lab): Promise<StepResult> {
  const before = lab.lastRecord();
  using folder = openSshFolder();
  const document = hardenedPolicy(lab, {
    approvals: { required: 1, of: ["alice"], for: "operation", window: "PT15M" },
  });
  document["approvers"] = { alice: { key: folder.newKey("alice"), notFor: [] } };
  let opened: Approvals | null = null;
  await using served = await lab.serve(document, ({ live, audit }, policyBytes) => {
    opened = openApprovals({ policy: () => live.current, policyBytes, akName, audit, now: () => performance.now() });
    return { approvals: opened.gate };
  });
  const waiting = () => approvalsOf(opened).pending();
  const tries: Try[] = [await signRelease(lab, served, GOOD, "refused")];
  const [request] = waiting();
  if (request === undefined) throw new Error("nothing waits for an approval");
  const armored = folder.sign("alice", utf8(request.text));
  const approve = async (id: string, expected: Try["expected"]) => {
    const where = id === request.request ? "handed in for it" : "handed in for the attacker's request";
    const command = `ssh-keygen -Y sign -n ironclaw-approval@1 -f alice   # of the text below, ${where}`;
    const answer = await approvalsOf(opened).approve(id, armored);
    const said =
      answer.kind === "refused"
        ? `${answer.code}: ${answer.reason}`
        : `${answer.approvers.length} of ${answer.required}`;
    tries.push({ who: "alice", command, expected, outcome: answer.kind, answer: said });
  };
  tries.push(await signRelease(lab, served, EVIL, "refused"));
  await approve(waiting().find(({ request: id }) => id !== request.request)?.request ?? "", "refused");
  await approve(request.request, "accepted");
  tries.push(await signRelease(lab, served, EVIL, "refused"));
  tries.push(await signRelease(lab, served, GOOD, "accepted"));
  tries.push(await signRelease(lab, served, GOOD, "refused"));
  return {
    tries,
    shown: ["what alice signs, and the only request that it opens:", ...request.text.trimEnd().split("\n")],
    audit: lab.records(before),
  };
}

/** They are opened as the policy begins to be served. */
function approvalsOf(opened: Approvals | null): Approvals {
  if (opened === null) throw new Error("the policy is not served");
  return opened;
}

/** TPM Name of the machine's attestation key; the lab has no machine, and its own name for it. */
function akName(): Uint8Array {
  return Uint8Array.of(0, 11, ...new Uint8Array(32).fill(0x1a));
}

async function freeze(lab: Lab): Promise<StepResult> {
  const before = lab.lastRecord();
  await using tpm = await startSwtpm({ endorsement: "none" });
  await using tss = await openTss(tpm);
  await provisionRecords(tss);
  const document = hardenedPolicy(lab, { freezeBit: 7 });
  const restrictionsOf = (broker: Pick<Broker, "audit">, policy: () => Policy | undefined) =>
    new Restrictions({
      ...{ tss, policy, release: () => undefined, audit: broker.audit, turns: createTurns() },
      unrecorded: (what) => console.error(`lab: ${what}`),
      log: { measure: async () => undefined }, // there is no agent PCR here; test/agent/restrictions.test.ts has one
    });
  const tries: Try[] = [];
  const shown: string[] = [];
  {
    await using served = await lab.serve(document);
    const restrictions = restrictionsOf(served.broker, () => served.broker.live.current);
    await restrictions.begin(served.broker.live);
    tries.push(await signRelease(lab, served, EVIL, "accepted"));
    const { bits } = await restrictions.freeze({ kind: "scopes", scopes: ["release"] });
    shown.push(`ironclaw freeze --scope release: the TPM's freeze bits are ${bits}`);
    tries.push(await signRelease(lab, served, EVIL, "refused"));
  }
  // The next boot: a broker that knows nothing, the same policy, the same TPM.
  await using again = await lab.serve(document);
  await restrictionsOf(again.broker, () => again.broker.live.current).begin(again.broker.live);
  shown.push("the next boot: another broker, the same policy and TPM");
  tries.push(await signRelease(lab, again, EVIL, "refused"));
  return { tries, shown, audit: lab.records(before) };
}
