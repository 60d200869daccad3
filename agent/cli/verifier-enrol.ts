import { enrolAtService } from "../../attest/service/index.ts";
import { ISSUER_OPTION, readCertificate, readIssuers } from "./certificate-files.ts";
import type { Command } from "./command.ts";
import { readText } from "./files.ts";
import { openMachine } from "./machine-ports.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { MACHINE_OPTION, machineName, openService, SERVICE_OPTIONS } from "./verifier-options.ts";

export const command: Command = {
  summary: "enrol a running machine at a verifier service, with an operator's one-time token",
  positionals: ["NAME"],
  options: {
    machine: MACHINE_OPTION,
    ...SERVICE_OPTIONS,
    token: { type: "string", value: "FILE", help: "file with the enrolment token on one line", required: true },
    "ek-certificate": {
      type: "string",
      value: "FILE",
      help: "certificate of the TPM's endorsement key, DER or PEM (default: the one that the TPM has)",
    },
    issuer: ISSUER_OPTION,
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw verifier enrol vm-1 --machine machine --to https://verifier:8443 --ca verifier-ca.pem --token vm-1.token --issuer ek-issuer.pem",
  ],
  run: async (input, io) => {
    const name = machineName(input.positional(0));
    const token = (await readText(input.text("token"), "enrolment token")).trim();
    const issuers = await readIssuers(input);
    const own = input.optional("ek-certificate");
    const ekCertificate = own === undefined ? null : await readCertificate(own, "EK certificate");
    const client = await openService(input);
    const control = await openMachine(input.text("machine"));
    try {
      io.phase("enrolling: service, machine and its TPM in turn");
      const enrolled = await enrolAtService({ name, token, client, control, ekCertificate, issuers });
      answer(input, io, enrolled, `enrolled ${name} (${enrolled.assurance}), EK ${enrolled.ekName}`);
      return 0;
    } finally {
      control.close();
    }
  },
};
