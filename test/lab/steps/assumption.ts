import { EVIL, GOOD, isEcSignature } from "../attacks.ts";
import { ID } from "../bench.ts";
import { digestOf, signWithTool, tried } from "../clients.ts";
import { hardenedPolicy } from "../deliberately-weak-policy.ts";
import type { Step } from "../step.ts";
import { signRelease } from "./harden-use.ts";

export const ASSUMPTION: readonly Step[] = [
  {
    ...{ number: 13, part: "assumption", title: "The stale assumption: who holds the PIN may sign" },
    attacked: "the key, by somebody who learnt the token's real PIN",
    change: null,
    enforcedBy:
      "the broker: a PIN from a caller is taken and looked at by nobody; the token's own never leaves the shim",
    run: async (lab) => {
      const before = lab.lastRecord();
      await using served = await lab.serve(hardenedPolicy(lab));
      const asking = {
        program: lab.stock,
        uid: lab.uids.service,
        scope: "release",
        id: ID.ec,
        mechanism: "ECDSA",
      } as const;
      const { pin } = lab.token;
      const attack = await signWithTool(lab, served, { ...asking, data: digestOf(EVIL), pin });
      return {
        tries: [
          tried(
            "refused",
            { ...attack, command: attack.command.replace(pin, "THE-REAL-PIN") },
            isEcSignature(lab, EVIL),
          ),
          await signRelease(lab, served, GOOD, "accepted", "not-the-pin"),
          await signRelease(lab, served, GOOD, "accepted"),
        ],
        shown: [
          "old: the PIN says who may use a key. It says only that somebody once knew it.",
          "new: who asks, for which purpose, by which mechanism, how often, with whose approval; the PIN is the machine's",
          "old: a digest in the log says what was signed. Step 2 signs a message whose digest is in no log.",
          "new: a digest says what was signed only where no mechanism takes a block of the caller's choice",
        ],
        audit: lab.records(before),
      };
    },
  },
];
