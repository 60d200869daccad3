import { CREDENTIAL_NAME, encodeDelegation, keyIdOf, MAX_EPOCH } from "../../policy/index.ts";
import { signDelegation } from "../../seal/index.ts";
import { type Command, UsageError } from "./command.ts";
import { readPublicKey } from "./files.ts";
import { deliver, JSON_OPTION } from "./output.ts";
import { openSigningKey, signingKeyOption } from "./signing-key.ts";

/** What a machine of this project has: the token's PIN and the key of its state volume. */
const CREDENTIALS = ["hsm-pin", "state"];

export const command: Command = {
  summary: "approve a release key with the root key, once: releases under it then need no root key",
  positionals: [],
  options: {
    root: signingKeyOption("release root key"),
    "release-key": { type: "string", value: "FILE", help: "release key (public, PEM)", required: true },
    "last-epoch": {
      type: "string",
      value: "N",
      help: "the last epoch for which it may sign; past it, a stolen key opens nothing",
      required: true,
    },
    credential: {
      type: "string",
      value: "NAME",
      help: `a credential that its releases may unseal (default: ${CREDENTIALS.join(" and ")})`,
      multiple: true,
    },
    out: { type: "string", value: "FILE", help: "the delegation", required: true },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw keys delegate --root root.pem --release-key release.pub --last-epoch 8 --out delegation.json",
    "ironclaw keys delegate --root 'pkcs11:token=root;object=root?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=pin' --release-key release.pub --last-epoch 8 --credential hsm-pin --credential state --credential tls-key --out delegation.json",
  ],
  run: async (input, io) => {
    const lastEpoch = input.integer("last-epoch", 0, MAX_EPOCH) ?? 0; // parsing has required it
    const named = input.list("credential");
    const odd = named.find((name) => !CREDENTIAL_NAME.test(name));
    if (odd !== undefined) throw new UsageError("--credential", { expected: "1 to 32 of a-z, 0-9 and -", got: odd });
    const releaseKey = await readPublicKey(input.text("release-key"), "release key");
    const root = await openSigningKey(input.text("root"));
    const order = { releaseKeyPem: releaseKey, credentials: named.length === 0 ? CREDENTIALS : named, lastEpoch };
    const delegation = await signDelegation(root, order);
    const credentials = delegation.credentials.map(({ name }) => name);
    const facts = { releaseKey: keyIdOf(releaseKey), releaseRoot: keyIdOf(root.spkiPem), credentials, lastEpoch };
    const sentence = `delegation of ${credentials.join(", ")} up to epoch ${lastEpoch}`;
    await deliver(input, io, encodeDelegation({ version: 2, releaseKey, delegation }), facts, sentence);
    return 0;
  },
};
