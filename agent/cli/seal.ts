import { randomBytes } from "node:crypto";
import { CREDENTIAL_NAME, keyIdOf, toHex } from "../../policy/index.ts";
import { CREDENTIAL_KINDS, type CredentialKind, openEkCertificate, sealOffline } from "../../seal/index.ts";
import { type Command, type CommandInput, type SecretInput, UsageError } from "./command.ts";
import { EK_OPTIONS, readEndorsement } from "./ek-options.ts";
import { readPin, readPublicKey, readSecretFile } from "./files.ts";
import { deliver, JSON_OPTION } from "./output.ts";
import { openSigningKey, signingKeyOption } from "./signing-key.ts";

const MAX_GENERATION = 0xffff_ffff;
/** Of the state volume (agent/SPAWNER.md): two AES-256 keys of XTS and an HMAC-SHA-256 key. */
const VOLUME_KEY_BYTES = 96;

/** The names under which a machine looks for its credentials unless its policy says otherwise. */
const DEFAULT_NAMES: Readonly<Partial<Record<CredentialKind, string>>> = { pin: "hsm-pin", "volume-key": "state" };

export const command: Command = {
  summary: "seal a PIN, a secret file or a new volume key offline to one TPM, from its EK certificate",
  positionals: [],
  options: {
    ...EK_OPTIONS,
    root: { type: "string", value: "FILE", help: "release root key (public, PEM)", required: true },
    operator: signingKeyOption("operator key, which signs the package"),
    kind: {
      type: "string",
      value: "KIND",
      help: "pin (default): one line of standard input; file: its bytes as they are; volume-key: made here, nothing is read",
    },
    name: { type: "string", value: "NAME", help: "the credential (default: hsm-pin; of a volume-key: state)" },
    generation: { type: "string", value: "N", help: "counts up with each new seal of that name (default: 1)" },
    "token-serial": { type: "string", value: "TEXT", help: "serial number of the token a PIN belongs to (only pin)" },
    "not-after": { type: "string", value: "TIME", help: "when the secret ends, e.g. 2027-11-01T00:00:00Z" },
    out: { type: "string", value: "FILE", help: "the sealed package", required: true },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw seal --ek-certificate ek.der --ca ca.pem --root root.pub --operator operator.pem --token-serial 1f00aa --out hsm-pin.json < pin",
    "ironclaw seal --kind volume-key --ek-certificate ek.der --ca ca.pem --root root.pub --operator operator.pem --out state.json",
    "ironclaw seal --kind file --name tls-key --ek-certificate ek.der --ca ca.pem --root root.pub --operator operator.pem --out tls-key.json < client.key",
  ],
  run: async (input, io) => {
    const label = readLabel(input);
    const { endorsement, ekCertificate } = await readEndorsement(input);
    openEkCertificate(ekCertificate); // not every EK can be sealed to: say so before the secret is read
    const rootKeyPem = await readPublicKey(input.text("root"), "release root key");
    const operator = await openSigningKey(input.text("operator"));
    // Last, so that nothing can fail between reading the secret and the seal, which wipes it.
    const secret = await readSecretOf(label.kind, io.input);
    const sealed = await sealOffline({ ekCertificate, secret, rootKeyPem, label, operator });
    const facts = { ...label, ekName: toHex(endorsement.ekName), releaseRoot: keyIdOf(rootKeyPem) };
    await deliver(input, io, sealed, facts, `sealed ${label.name} (${label.kind}), generation ${label.generation}`);
    return 0;
  },
};

function readLabel(input: CommandInput) {
  const kind = input.choice("kind", CREDENTIAL_KINDS);
  const name = input.optional("name") ?? DEFAULT_NAMES[kind];
  if (name === undefined || !CREDENTIAL_NAME.test(name))
    throw new UsageError("--name", { expected: "1 to 32 of a-z, 0-9 and -", got: name ?? "none" });
  const notAfter = input.time("not-after") ?? null;
  if (notAfter !== null && Date.parse(notAfter) <= Date.now())
    throw new UsageError("--not-after", { expected: "a time to come", got: notAfter });
  const generation = input.integer("generation", 1, MAX_GENERATION) ?? 1;
  return { name, kind, generation, notAfter, tokenSerial: readTokenSerial(input, kind) };
}

function readTokenSerial(input: CommandInput, kind: CredentialKind): string | null {
  const serial = input.optional("token-serial") ?? null;
  if ((kind === "pin") !== (serial !== null)) {
    const expected = kind === "pin" ? "the serial number of the PIN's token" : `none for a ${kind}`;
    throw new UsageError("--token-serial", { expected, got: serial === null ? "none" : "one" });
  }
  if (serial === null || /^[ -~]{1,64}$/.test(serial)) return serial;
  throw new UsageError("--token-serial", { expected: "1 to 64 printable ASCII characters", got: "another text" });
}

function readSecretOf(kind: CredentialKind, stream: SecretInput): Promise<Uint8Array> {
  switch (kind) {
    case "pin":
      return readPin(stream);
    case "file":
      return readSecretFile(stream);
    case "volume-key":
      return Promise.resolve(Uint8Array.from(randomBytes(VOLUME_KEY_BYTES)));
  }
}
