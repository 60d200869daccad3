import { keyIdOf, utf8 } from "../../policy/index.ts";
import type { Command } from "./command.ts";
import { deliver, JSON_OPTION } from "./output.ts";
import { openSigningKey } from "./signing-key.ts";

export const command: Command = {
  summary: "write the public half of a private key: of a file, or of a key that stays on its token",
  positionals: ["KEY"],
  options: {
    out: { type: "string", value: "FILE", help: "the public key, PEM", required: true },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw keys public release.pem --out release.pub",
    "ironclaw keys public 'pkcs11:token=root;object=root?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=pin' --out root.pub",
  ],
  run: async (input, io) => {
    const { spkiPem } = await openSigningKey(input.positional(0));
    const keyId = keyIdOf(spkiPem);
    await deliver(input, io, utf8(spkiPem), { keyId }, `public key ${keyId}`);
    return 0;
  },
};
