import { createHash, verify } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { cli } from "../../support/cli.ts";
import { documentBytes } from "../../support/policy-document.ts";
import { blind, EVIL, isEcSignature, publicKey } from "../attacks.ts";
import { ID, type Lab } from "../bench.ts";
import { digestOf, signWithTool, tried } from "../clients.ts";
import { deliberatelyWeakPolicy, WEAK_SCOPE } from "../deliberately-weak-policy.ts";
import type { Step } from "../step.ts";

export const BREAK: readonly Step[] = [
  {
    ...{ number: 1, part: "break", title: "Anybody's message is signed" },
    attacked: "the use of the key ec: no PIN, no login, a message that nobody released",
    change: "the deliberately weak policy: any process of the account that runs a tool found on every machine",
    enforcedBy: "nobody: the policy allows it, so the broker asks the token",
    run: async (lab) => {
      const before = lab.lastRecord();
      const document = deliberatelyWeakPolicy(lab);
      await using served = await lab.serve(document);
      const asking = {
        program: lab.stock,
        uid: lab.uids.service,
        scope: WEAK_SCOPE,
        id: ID.ec,
        mechanism: "ECDSA",
      } as const;
      const signed = await signWithTool(lab, served, { ...asking, data: digestOf(EVIL) });
      return {
        tries: [tried("accepted", signed, isEcSignature(lab, EVIL))],
        shown: [`message: ${EVIL.trim()}`, ...(await checked(lab, document))],
        audit: lab.records(before),
      };
    },
  },
  {
    ...{ number: 2, part: "break", title: "Raw RSA signs what no log can name" },
    attacked: "the use of the key rsa: the private operation on a number of the caller's choice",
    change: null,
    enforcedBy: "nobody: raw-rsa is accepted, and a block has no meaning that could be checked",
    run: async (lab) => {
      const before = lab.lastRecord();
      await using served = await lab.serve(deliberatelyWeakPolicy(lab));
      const key = publicKey(lab, "rsa");
      const blinded = blind(key, EVIL);
      const asking = {
        program: lab.stock,
        uid: lab.uids.service,
        scope: WEAK_SCOPE,
        id: ID.rsa,
        mechanism: "RSA-X-509",
      } as const;
      const signed = await signWithTool(lab, served, { ...asking, data: blinded.block });
      const good = (answer: Uint8Array) => verify("sha256", Buffer.from(EVIL), key, blinded.unblind(answer));
      const audit = lab.records(before);
      return {
        tries: [tried("accepted", signed, good)],
        shown: [
          "the block was the padded message times r^e; the answer divided by r is the signature",
          `SHA-256 of the message: ${createHash("sha256").update(EVIL).digest("hex")}`,
          `input in the audit log: ${audit.find(({ operation }) => operation === "sign")?.inputDigest ?? "none"}`,
        ],
        audit,
      };
    },
  },
];

/** What `policy check` has against it: nobody signs such a document without having read this. */
async function checked({ directory }: Lab, document: object): Promise<readonly string[]> {
  const file = join(directory, "DELIBERATELY-WEAK.policy.json");
  writeFileSync(file, documentBytes(document));
  const { out } = await cli(["policy", "check", file]);
  return ["ironclaw policy check DELIBERATELY-WEAK.policy.json", ...out.replaceAll(file, "").trimEnd().split("\n")];
}
