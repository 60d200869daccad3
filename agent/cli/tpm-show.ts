import { HASH, PROPERTY } from "node-tpm2-tss";
import { EPOCH_STRIDE, toHex } from "../../policy/index.ts";
import {
  EVERYTHING,
  encodeAnchor,
  freezeHex,
  type MachineTpm,
  PERMANENT,
  readAnchor,
  readEkCertificates,
  readEpoch,
  readFreeze,
  readPermanent,
} from "../../seal/index.ts";
import type { Command } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { TCTI_OPTION, withTpm } from "./tpm-options.ts";

export const command: Command = {
  summary:
    "what a TPM holds for us: banks, endorsement certificates, owner, lockout, epoch counter, freeze bits, audit anchor",
  positionals: [],
  options: { tcti: TCTI_OPTION, json: JSON_OPTION },
  examples: ["ironclaw tpm show --tcti device:/dev/tpmrm0", "ironclaw tpm show --tcti swtpm:path=tpm.sock --json"],
  run: (input, io) =>
    withTpm(input, async (tpm): Promise<0> => {
      const facts = await readFacts(tpm);
      answer(input, io, facts, renderFacts(facts));
      return 0;
    }),
};

interface TpmFacts {
  readonly banks: readonly string[];
  readonly ekCertificates: number;
  readonly ownerSet: boolean;
  readonly lockoutSet: boolean;
  readonly endorsementSet: boolean;
  readonly inLockout: boolean;
  readonly lockoutCounter: number;
  /** Counter value; null: not defined, or never incremented. */
  readonly epoch: number | null;
  /** 16 hexadecimal digits; null: not there, or not ours. */
  readonly freeze: string | null;
  readonly audit: { readonly volumeId: string; readonly seq: number; readonly record: string } | null;
}

async function readFacts({ tss }: MachineTpm): Promise<TpmFacts> {
  const permanent = await readPermanent(tss);
  const has = (bit: number) => (permanent & bit) !== 0;
  const epoch = await readEpoch(tss);
  const anchor = await readAnchor(tss);
  const freeze = await readFreeze(tss);
  const banks = (await tss.pcrBanks()).filter(({ pcrs }) => pcrs.length > 0).map(({ bank }) => bank);
  return {
    banks: banks.filter((bank) => Object.hasOwn(HASH, bank)),
    ekCertificates: (await readEkCertificates(tss)).length,
    ownerSet: has(PERMANENT.ownerAuthSet),
    lockoutSet: has(PERMANENT.lockoutAuthSet),
    endorsementSet: has(PERMANENT.endorsementAuthSet),
    inLockout: has(PERMANENT.inLockout),
    lockoutCounter: (await tss.properties(PROPERTY.lockoutCounter, 1)).get(PROPERTY.lockoutCounter) ?? 0,
    epoch: epoch.kind === "present" && epoch.value !== null ? Number(epoch.value) : null,
    freeze: freeze.kind === "bits" ? freezeHex(freeze.bits) : null,
    audit:
      anchor.kind === "anchor"
        ? {
            volumeId: toHex(anchor.anchor.volumeId),
            seq: anchor.anchor.seq,
            record: toHex(encodeAnchor(anchor.anchor)),
          }
        : null,
  };
}

function renderFacts(facts: TpmFacts): string {
  const set = (value: boolean) => (value ? "set" : "empty");
  const epoch =
    facts.epoch === null ? "not defined" : `${facts.epoch} (epoch ${Math.floor(facts.epoch / EPOCH_STRIDE)})`;
  return [
    `banks            ${facts.banks.join(", ")}`,
    `EK certificates  ${facts.ekCertificates}`,
    `authorisations   owner ${set(facts.ownerSet)}, lockout ${set(facts.lockoutSet)}, endorsement ${set(facts.endorsementSet)}`,
    `lockout          ${facts.inLockout ? "yes" : "no"}, ${facts.lockoutCounter} failed tries`,
    `epoch counter    ${epoch}`,
    `freeze bits      ${facts.freeze ?? "not defined"}${frozenNote(facts.freeze)}`,
    `audit anchor     ${facts.audit === null ? "none" : `volume ${facts.audit.volumeId}, record ${facts.audit.seq}`}`,
  ].join("\n");
}

function frozenNote(bits: string | null): string {
  if (bits === null || /^0+$/.test(bits)) return "";
  return (BigInt(`0x${bits}`) & EVERYTHING) === 0n ? " (scopes are frozen)" : " (everything is frozen)";
}
