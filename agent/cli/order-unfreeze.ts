import { randomBytes } from "node:crypto";
import { toHex } from "../../policy/index.ts";
import { freezeHex } from "../../seal/index.ts";
import { type Command, type CommandInput, UsageError } from "./command.ts";
import { readPolicyFile } from "./freeze-options.ts";
import { giveOrder, ORDER_OPTIONS } from "./order-options.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { readEscrow } from "./tpm-options.ts";

const ALL_BITS = (1n << 64n) - 1n;

export const command: Command = {
  summary: "end what `ironclaw freeze` began: for all, for a scope, or for one bit; from the next boot on",
  positionals: [],
  options: {
    all: { type: "boolean", help: "nothing is frozen afterwards; the only way where the freeze bits are not there" },
    scope: { type: "string", value: "NAME", help: "this scope, by the policy of --policy", multiple: true },
    policy: { type: "string", value: "FILE", help: "with --scope: your own copy of the machine's policy" },
    bit: { type: "string", value: "N", help: "this bit, whatever it stands for: 0 is everything", multiple: true },
    escrow: { type: "string", value: "FILE", help: "the owner's authorisation, when the TPM has an owner" },
    ...ORDER_OPTIONS,
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw order unfreeze --all --machine /tmp/ironclaw-dev-x1/vm --operator operator.pem --escrow escrow.json",
    "ironclaw order unfreeze --scope release-signing --policy policy.json --machine /tmp/ironclaw-dev-x1/vm --operator operator.pem",
    "ironclaw order unfreeze --bit 0 --tcti device:/dev/tpmrm0 --operator operator.pem --escrow escrow.json",
  ],
  run: async (input, io) => {
    const clear = await readClear(input);
    const escrow = input.optional("escrow");
    const owner = escrow === undefined ? null : await readEscrow(escrow);
    io.phase("asking for the TPM's records, signing the order, handing it in");
    const order = await giveOrder(
      input,
      ({ ekName, boot, freeze }) => {
        if (freeze === null && clear !== ALL_BITS)
          throw new UsageError("freeze bits", {
            expected: "those of the machine",
            got: "none, so nothing is known of the others",
            hint: "make them again with --all, then freeze what has to stay frozen, before the machine boots",
          });
        const keep = freezeHex(BigInt(`0x${freeze ?? 0}`) & ~clear);
        return { version: 1, order: "unfreeze", ekName, boot, id: toHex(randomBytes(16)), bits: freeze, keep };
      },
      owner,
    );
    const left = order.order === "unfreeze" ? order.keep : "";
    answer(input, io, order, `freeze bits are ${left} now; reboot the machine: what is frozen in this boot stays so`);
    return 0;
  },
};

async function readClear(input: CommandInput): Promise<bigint> {
  const [scopes, bits] = [input.list("scope"), input.list("bit")];
  const some = scopes.length + bits.length > 0;
  if (input.flag("all") === some)
    throw new UsageError("unfreeze", { expected: "--all, or --scope and --bit", got: some ? "both" : "neither" });
  if (input.flag("all")) return ALL_BITS;
  const policy = scopes.length === 0 ? null : await readPolicyFile(input.text("policy"));
  const named = scopes.map((name) => policy?.bitOf(name) ?? 0);
  return [...named, ...bits.map(parseBit)].reduce((mask, bit) => mask | (1n << BigInt(bit)), 0n);
}

function parseBit(text: string): number {
  const bit = /^(?:0|[1-9][0-9]?)$/.test(text) ? Number(text) : 64;
  if (bit < 64) return bit;
  throw new UsageError("--bit", { expected: "a number from 0 to 63", got: text });
}
