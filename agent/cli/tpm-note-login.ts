import { chooseCredentials, LOGIN_OUTCOMES, packageDigest, readLogin, writeLogin } from "../../seal/index.ts";
import { type Command, UsageError } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { ANCHORS_OPTION, readAnchors, STORE_OPTION, TCTI_OPTION, withStore, withTpm } from "./tpm-options.ts";

export const command: Command = {
  summary:
    "write down in the TPM how a try with a PIN ended, for whoever logs in without our agent; a machine does it by itself",
  positionals: ["NAME"],
  options: {
    outcome: {
      type: "string",
      value: "OUTCOME",
      help: "trying (before the try), accepted or refused (after it)",
      required: true,
    },
    tcti: TCTI_OPTION,
    anchors: ANCHORS_OPTION,
    store: { ...STORE_OPTION, help: "the machine's store", required: true },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw tpm note-login hsm-pin --outcome trying --tcti device:/dev/tpmrm0 --anchors anchors.json --store store.img",
  ],
  run: async (input, io) => {
    const name = input.positional(0);
    const outcome = input.choice("outcome", ["trying", "accepted", "refused"]);
    const anchors = await readAnchors(input);
    return withStore(input, async (store): Promise<0> => {
      const { byName } = await chooseCredentials(anchors, [], store.content);
      const sealed = byName.get(name)?.sealed;
      if (sealed === undefined)
        throw new UsageError("NAME", {
          expected: "a credential of the store",
          got: name,
          hint: `it holds ${[...byName.keys()].join(" ") || "none"}`,
        });
      const { generation } = sealed;
      await withTpm(input, async ({ tss }) => {
        const known = await readLogin(tss, name);
        const before = known.kind === "record" ? known.record.tries : 0n;
        const tries = outcome === "trying" || before === 0n ? before + 1n : before;
        await writeLogin(tss, { name, outcome, generation, tries, package: packageDigest(sealed) });
      });
      const facts = { name, generation, outcome, value: LOGIN_OUTCOMES[outcome] };
      answer(input, io, facts, `${name}, generation ${generation}: ${outcome}`);
      return 0;
    });
  },
};
