import { connect, RefusedError } from "../../../agent/client/index.ts";
import { EVIL, GOOD, isEcSignature } from "../attacks.ts";
import { ID, type Lab, type Program, type Served } from "../bench.ts";
import { digestOf, type Signed, signWithTool, tried } from "../clients.ts";
import { deliberatelyWeakPolicy, hardenedPolicy, labDocument, WEAK_SCOPE } from "../deliberately-weak-policy.ts";
import type { Step, Try } from "../step.ts";

const ENFORCED =
  "the broker, by the kernel's word (SO_PEERCRED, pidfd, /proc/PID), before any call of the client is read";
/** No service manager runs here, so no process of this machine is in it. */
const UNIT = "release-signer.service";

export const HARDEN_CALLER: readonly Step[] = [
  {
    ...{ number: 3, part: "harden", title: "Caller: the account" },
    attacked: "the same socket and message as in step 1, from another account",
    change: "callers: uid is the service's own",
    enforcedBy: ENFORCED,
    run: async (lab) => {
      const before = lab.lastRecord();
      const { service, other } = lab.uids;
      // Where this process may not become others, nobody here has the service's uid: the attacker keeps his, and it is the wrong one.
      await using served = await lab.serve(deliberatelyWeakPolicy(lab, other === service ? service + 1 : service));
      const signed = await sign(lab, served, { program: lab.stock, uid: other, scope: WEAK_SCOPE });
      return { tries: [tried("refused", signed, isEcSignature(lab, EVIL))], shown: [], audit: lab.records(before) };
    },
  },
  {
    ...{ number: 4, part: "harden", title: "Caller: the executable" },
    attacked: "the same, by an attacker who is inside the service's account",
    change: "callers: exe is the signer's digest alone, and the signer is a file of its own",
    enforcedBy: ENFORCED,
    run: async (lab) => {
      const before = lab.lastRecord();
      await using served = await lab.serve(hardenedPolicy(lab));
      const uid = lab.uids.service;
      const attack = await sign(lab, served, { program: lab.stock, uid, scope: "release" });
      const native = await signNatively(served, "release");
      const rightful = await sign(lab, served, { program: lab.signer, uid, scope: "release" }, GOOD);
      const tries = [
        tried("refused", attack, isEcSignature(lab, EVIL)),
        native,
        tried("accepted", rightful, isEcSignature(lab, GOOD)),
      ];
      return { tries, shown: [], audit: lab.records(before) };
    },
  },
  {
    ...{ number: 5, part: "harden", title: "Caller: the unit" },
    attacked: "the same, by the signer's own executable, started by hand in the service's account",
    change: `callers: unit is ${UNIT}`,
    enforcedBy: ENFORCED,
    run: async (lab) => {
      const before = lab.lastRecord();
      const document = hardenedPolicy(lab);
      Object.assign(document.callers["release-signer"] as object, { unit: UNIT });
      await using served = await lab.serve(document);
      const attack = await sign(lab, served, { program: lab.signer, uid: lab.uids.service, scope: "release" });
      return {
        tries: [tried("refused", attack, isEcSignature(lab, EVIL))],
        shown: [
          "no service manager starts the signer here, so nobody is served; the rightful side: test/policy/decision-table.test.ts",
        ],
        audit: lab.records(before),
      };
    },
  },
  {
    ...{ number: 6, part: "harden", title: "Purpose: the socket" },
    attacked: "the release key, by a nightly build that was taken over and has a scope of its own",
    change: "scopes: nightly has another key and another caller",
    enforcedBy: "the broker: a socket shows the keys of its own scope, and another scope's socket knows another caller",
    run: async (lab) => {
      const before = lab.lastRecord();
      await using served = await lab.serve(twoPurposes(lab));
      const builder = { program: lab.nightly, uid: lab.uids.service };
      const own = await sign(lab, served, { ...builder, scope: "nightly" });
      const across = await sign(lab, served, { ...builder, scope: "release" });
      const good = isEcSignature(lab, EVIL);
      return {
        tries: [tried("refused", own, good), tried("refused", across, good)],
        shown: ["at its own socket the release key has no name that could be asked for: no decision, so no record"],
        audit: lab.records(before),
      };
    },
  },
];

function twoPurposes(lab: Lab) {
  const document = labDocument(lab, ["ec", "rsa"]);
  const { callers, scopes } = hardenedPolicy(lab);
  const nightly = { uid: lab.uids.service, exe: [lab.nightly.exe], unit: null };
  const mechanisms = [{ type: "CKM_SHA256_RSA_PKCS" }];
  const scope = { name: "nightly", caller: "nightly-builder", key: "rsa", mechanisms, audit: "written" };
  return Object.assign(document, { callers: { ...callers, "nightly-builder": nightly }, scopes: [...scopes, scope] });
}

function sign(
  lab: Lab,
  served: Served,
  asking: { readonly program: Program; readonly uid: number; readonly scope: string },
  message = EVIL,
): Promise<Signed> {
  return signWithTool(lab, served, {
    ...asking,
    id: ID.ec,
    mechanism: "ECDSA",
    data: digestOf(message),
    what: `SHA-256 of "${message.trim()}"`,
  });
}

/** By the other door, from this very process: Node, whatever script it runs. */
async function signNatively(served: Served, scope: string): Promise<Try> {
  const asked = { who: "node, the native client", command: `connect(".../${scope}.sock"), session.sign(...)` };
  try {
    await using client = await connect(served.socket(scope));
    await using session = client.session();
    const signature = await session.sign({ mechanism: "CKM_ECDSA", digest: digestOf(EVIL) });
    return { ...asked, expected: "refused", outcome: "accepted", answer: `a signature of ${signature.length} bytes` };
  } catch (error) {
    if (!(error instanceof RefusedError)) throw error;
    return { ...asked, expected: "refused", outcome: "refused", answer: `refused: ${error.reason}` };
  }
}
