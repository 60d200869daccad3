import { encodeEnrolment, verifyEndorsement } from "../../attest/index.ts";
import { toHex } from "../../policy/index.ts";
import { enrol } from "../../vm-images/story/verifier.ts";
import type { Command } from "./command.ts";
import { readInput, readText, writeOutput } from "./files.ts";
import { openMachine } from "./report.ts";

export const command: Command = {
  summary: "enrol a running machine: its AK is bound to the certified EK by TPM2_ActivateCredential, then pinned",
  positionals: ["NAME"],
  options: {
    machine: {
      type: "string",
      value: "DIR",
      help: "the running machine's directory, which holds its port sockets",
      required: true,
    },
    "ek-certificate": { type: "string", value: "FILE", help: "DER certificate of its endorsement key", required: true },
    issuer: { type: "string", value: "FILE", help: "DER certificate of the intermediate CA" },
    root: { type: "string", value: "FILE", help: "PEM certificate of the pinned root CA", required: true },
    out: { type: "string", value: "FILE", help: "the enrolment", required: true },
  },
  examples: ["ironclaw enrol vm-1 --machine build/run/dev/vm --ek-certificate ek.der --root ca.pem --out vm-1.json"],
  run: async (input, io) => {
    const chain = [await readInput(input.text("ek-certificate"), "EK certificate")];
    const issuer = input.optional("issuer");
    if (issuer !== undefined) chain.push(await readInput(issuer, "issuer"));
    // Only the software TPM's CA is made by this project; a pinned provider's CA needs a verifier that knows its class.
    const anchor = {
      name: "pinned root",
      pem: await readText(input.text("root"), "root CA"),
      assurance: "software-tpm",
      requireEkPurpose: true,
      manufacturers: "any",
    } as const;
    const endorsement = verifyEndorsement(chain, [anchor], new Date());
    const control = await openMachine(input.text("machine"));
    try {
      const enrolment = await enrol(input.positional(0), endorsement, control);
      await writeOutput(input.text("out"), encodeEnrolment(enrolment));
      io.print(`enrolled ${enrolment.name}: EK ${toHex(endorsement.ekName)}, AK ${enrolment.akName}`);
      return 0;
    } finally {
      control.close();
    }
  },
};
