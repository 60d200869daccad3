import { loadSigningKey, sealOffline } from "../../seal/index.ts";
import { type Command, UsageError } from "./command.ts";
import { readInput, readSecret, readText, writeOutput } from "./files.ts";

export const command: Command = {
  summary: "seal a PIN offline to one TPM, from its EK certificate; the PIN is read from standard input",
  positionals: [],
  options: {
    "ek-certificate": {
      type: "string",
      value: "FILE",
      help: "DER certificate of the TPM's endorsement key, its chain already verified",
      required: true,
    },
    root: { type: "string", value: "FILE", help: "release root key (public, PEM)", required: true },
    operator: {
      type: "string",
      value: "FILE",
      help: "operator key (private, PEM, mode 0600) that signs the package",
      required: true,
    },
    "token-serial": {
      type: "string",
      value: "TEXT",
      help: "serial number of the token the PIN belongs to",
      required: true,
    },
    name: { type: "string", value: "NAME", help: "name of the credential (default: hsm-pin)" },
    generation: { type: "string", value: "N", help: "counts up with each new PIN (default: 1)" },
    out: { type: "string", value: "FILE", help: "the sealed package", required: true },
  },
  examples: [
    "ironclaw seal --ek-certificate ek.der --root root.pub --operator operator.pem --token-serial 1f00aa --out sealed.json < pin",
  ],
  run: async (input, io) => {
    const generation = Number(input.optional("generation") ?? "1");
    if (!Number.isSafeInteger(generation) || generation < 1) {
      throw new UsageError("--generation", { expected: "a number from 1", got: input.optional("generation") ?? "" });
    }
    const ekCertificate = await readInput(input.text("ek-certificate"), "EK certificate");
    const sealed = await sealOffline({
      ekCertificate,
      pin: await readSecret(process.stdin),
      rootKeyPem: await readText(input.text("root"), "release root key"),
      name: input.optional("name") ?? "hsm-pin",
      generation,
      tokenSerial: input.text("token-serial"),
      operator: await loadSigningKey(input.text("operator")),
    });
    await writeOutput(input.text("out"), sealed);
    io.print(`sealed ${input.text("out")}`);
    return 0;
  },
};
