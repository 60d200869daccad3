import { encodeEnrolment } from "../../attest/index.ts";
import { claimedEndorsement, enrol, giveOwner } from "../../vm-images/enrol.ts";
import { type Command, UsageError } from "./command.ts";
import { ASSURANCE_OPTION, EK_OPTIONS, readEndorsement } from "./ek-options.ts";
import { openMachine } from "./machine-ports.ts";
import { deliver, JSON_OPTION } from "./output.ts";
import { prepareEscrow } from "./tpm-options.ts";

export const command: Command = {
  summary: "enrol a running machine: its AK is bound to the certified EK by TPM2_ActivateCredential, then pinned",
  positionals: ["NAME"],
  options: {
    machine: { type: "string", value: "DIR", help: "the running machine's directory of port sockets", required: true },
    ...EK_OPTIONS,
    assurance: ASSURANCE_OPTION,
    escrow: {
      type: "string",
      value: "FILE",
      help: "give the TPM an owner as well; what gives it one goes into this new file (mode 0600), or comes from it after an enrolment that was cut off",
    },
    out: { type: "string", value: "FILE", help: "the enrolment", required: true },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw enrol vm-1 --machine /tmp/ironclaw-dev-x1/vm --ek-certificate ek.der --ca ca.pem --out enrolment.json",
    "ironclaw enrol vm-1 --machine /tmp/ironclaw-dev-x1/vm --ek-certificate ek.der --issuer issuer.pem --ca-set ek-anchors.json --out enrolment.json",
    "ironclaw enrol vm-1 --machine /tmp/ironclaw-dev-x1/vm --ek-certificate ek.der --ca ca.pem --escrow escrow.json --out enrolment.json",
  ],
  run: async (input, io) => {
    const name = input.positional(0);
    if (!/^[\w.-]{1,64}$/.test(name))
      throw new UsageError("NAME", { expected: "1 to 64 letters, digits, dots, dashes and underscores", got: name });
    const { endorsement } = await readEndorsement(input);
    const control = await openMachine(input.text("machine"));
    try {
      io.phase("asking the machine's TPM for its keys");
      const enrolment = await enrol(name, endorsement, control);
      const escrow = input.optional("escrow");
      if (escrow !== undefined) {
        io.phase("giving the TPM an owner");
        const { secret } = await prepareEscrow(escrow, enrolment.ekName);
        await giveOwner(secret, await claimedEndorsement(endorsement, control), enrolment, control);
      }
      const { ekName, akName, assurance } = enrolment;
      await deliver(input, io, encodeEnrolment(enrolment), { name, ekName, akName, assurance }, `enrolled ${name}`);
      return 0;
    } finally {
      control.close();
    }
  },
};
