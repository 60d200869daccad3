import { keyIdOf } from "../../policy/index.ts";
import { createSigningKeyFile } from "../../seal/index.ts";
import { type Command, UsageError } from "./command.ts";
import { writeOutput } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "make a release root, release or operator key: NAME.pem (private, mode 0600) and NAME.pub",
  positionals: ["NAME.pem"],
  options: {
    kind: { type: "string", value: "KIND", help: "p256 (default) or rsa2048" },
    json: JSON_OPTION,
  },
  examples: ["ironclaw keys new root.pem", "ironclaw keys new operator.pem --kind rsa2048"],
  run: async (input, io) => {
    const file = input.positional(0);
    const kind = input.choice("kind", ["p256", "rsa2048"]);
    if (!file.endsWith(".pem")) throw new UsageError("key file", { expected: "a name that ends in .pem", got: file });
    const publicFile = file.replace(/\.pem$/, ".pub");
    const { spkiPem } = await createSigningKeyFile(file, kind);
    await writeOutput(publicFile, spkiPem);
    const keyId = keyIdOf(spkiPem);
    answer(input, io, { file, public: publicFile, kind, keyId }, `made ${file} and ${publicFile}, key id ${keyId}`);
    return 0;
  },
};
