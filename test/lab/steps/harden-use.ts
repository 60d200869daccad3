import { blind, EVIL, GOOD, isEcSignature, publicKey } from "../attacks.ts";
import { ID, type Lab, type Served } from "../bench.ts";
import { type Asking, digestOf, signWithTool, tried } from "../clients.ts";
import { hardenedPolicy, labDocument } from "../deliberately-weak-policy.ts";
import type { Step, Try } from "../step.ts";

/** From here on the attacker runs the signer itself: what the caller's identity can stop is behind us. */
const ATTACKER = "by the signer itself, which was taken over";

export const HARDEN_USE: readonly Step[] = [
  {
    ...{ number: 7, part: "harden", title: "Mechanism and input" },
    attacked: `the blinded block of step 2, and data that is no digest, ${ATTACKER}`,
    change: "mechanisms: no raw RSA; the data is a DigestInfo of SHA-256, or exactly 32 bytes",
    enforcedBy: "the broker at the steps mechanism and parameters; the shim's own list of uses stands behind it",
    run: async (lab) => {
      const before = lab.lastRecord();
      await using served = await lab.serve(digestsOnly(lab));
      const { block } = blind(publicKey(lab, "rsa"), EVIL);
      const asks: readonly Omit<Asking, "program" | "uid">[] = [
        { scope: "packages", id: ID.rsa, mechanism: "RSA-X-509", data: block, what: "the blinded block" },
        {
          scope: "packages",
          id: ID.rsa,
          mechanism: "RSA-PKCS",
          data: new TextEncoder().encode(EVIL),
          what: "the message itself",
        },
        {
          scope: "release",
          id: ID.ec,
          mechanism: "ECDSA",
          data: new TextEncoder().encode(EVIL),
          what: "the message itself",
        },
      ];
      const tries: Try[] = [];
      for (const ask of asks) tries.push(tried("refused", await bySigner(lab, served, ask), () => true));
      tries.push(await signRelease(lab, served, GOOD, "accepted"));
      return { tries, shown: [], audit: lab.records(before) };
    },
  },
  {
    ...{ number: 8, part: "harden", title: "Rate" },
    attacked: `as many signatures as it can get, ${ATTACKER}`,
    change: "rate: 1 a minute, 2 at once",
    enforcedBy: "the broker, in a token bucket that all connections of the scope share",
    run: (lab) => flood(lab, { rate: { perMinute: 1, burst: 2 } }),
  },
  {
    ...{ number: 9, part: "harden", title: "Budget" },
    attacked: `the same, patiently: below any rate, ${ATTACKER}`,
    change: "budget: 2 operations in one boot",
    enforcedBy: "the broker, in a count that no waiting refills and no new connection begins anew",
    run: (lab) => flood(lab, { budget: { operations: 2 } }),
  },
];

/** Three tries for two. */
async function flood(lab: Lab, limits: Record<string, unknown>) {
  const before = lab.lastRecord();
  await using served = await lab.serve(hardenedPolicy(lab, limits));
  const tries: Try[] = [];
  for (const expected of ["accepted", "accepted", "refused"] as const)
    tries.push(await signRelease(lab, served, EVIL, expected));
  return { tries, shown: [], audit: lab.records(before) };
}

function digestsOnly(lab: Lab) {
  const document = labDocument(lab, ["ec", "rsa"]);
  const { callers, scopes } = hardenedPolicy(lab);
  const mechanisms = [{ type: "CKM_RSA_PKCS", digest: "sha256" }];
  const packages = { name: "packages", caller: "release-signer", key: "rsa", mechanisms, audit: "durable" };
  return Object.assign(document, { callers, scopes: [...scopes, packages] });
}

function bySigner(lab: Lab, served: Served, ask: Omit<Asking, "program" | "uid">) {
  return signWithTool(lab, served, { program: lab.signer, uid: lab.uids.service, ...ask });
}

/** The signer asks for a signature over a message's digest in the scope `release`. */
export async function signRelease(
  lab: Lab,
  served: Served,
  message: string,
  expected: Try["expected"],
  pin?: string,
): Promise<Try> {
  const ask = {
    scope: "release",
    id: ID.ec,
    mechanism: "ECDSA",
    data: digestOf(message),
    what: `SHA-256 of "${message.trim()}"`,
  } as const;
  const signed = await bySigner(lab, served, pin === undefined ? ask : { ...ask, pin });
  return tried(expected, signed, isEcSignature(lab, message));
}
