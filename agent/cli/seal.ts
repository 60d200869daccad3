import { keyIdOf, toHex } from "../../policy/index.ts";
import { loadSigningKey, sealOffline } from "../../seal/index.ts";
import { type Command, type CommandInput, UsageError } from "./command.ts";
import { EK_OPTIONS, readEndorsement } from "./ek-options.ts";
import { readSecret, readText } from "./files.ts";
import { deliver, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "seal a PIN offline to one TPM, from its EK certificate; the PIN is read from standard input",
  positionals: [],
  options: {
    ...EK_OPTIONS,
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
    json: JSON_OPTION,
  },
  examples: [
    "systemd-ask-password -n | ironclaw seal --ek-certificate ek.der --ca ca.pem --root root.pub --operator operator.pem --token-serial 1f00aa --out sealed.json",
  ],
  run: async (input, io) => {
    const generation = parseGeneration(input);
    const name = input.optional("name") ?? "hsm-pin";
    const tokenSerial = input.text("token-serial");
    const { endorsement, ekCertificate } = await readEndorsement(input);
    const rootKeyPem = await readText(input.text("root"), "release root key");
    const operator = await loadSigningKey(input.text("operator"));
    // Last, so that nothing can fail between reading the PIN and the seal, which wipes it.
    const pin = await readSecret(io.input, "PIN");
    const order = { ekCertificate, pin, rootKeyPem, name, generation, tokenSerial, operator };
    const sealed = await sealOffline(order);
    const facts = {
      name,
      generation,
      tokenSerial,
      ekName: toHex(endorsement.ekName),
      releaseRoot: keyIdOf(rootKeyPem),
    };
    await deliver(input, io, sealed, facts, `sealed ${name}`);
    return 0;
  },
};

function parseGeneration(input: CommandInput): number {
  const text = input.optional("generation") ?? "1";
  if (/^[1-9][0-9]{0,14}$/.test(text)) return Number(text);
  throw new UsageError("--generation", { expected: "a number from 1", got: text });
}
