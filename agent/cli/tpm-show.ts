import { HASH, PROPERTY } from "node-tpm2-tss";
import { EPOCH_STRIDE, toHex } from "../../policy/index.ts";
import {
  encodeAnchor,
  type MachineTpm,
  PERMANENT,
  readAnchor,
  readEkCertificates,
  readEpoch,
  readPermanent,
} from "../../seal/index.ts";
import type { Command } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { TCTI_OPTION, withTpm } from "./tpm-options.ts";

export const command: Command = {
  summary: "what a TPM holds for us: banks, endorsement certificates, owner, lockout, epoch counter, audit anchor",
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
  readonly audit: { readonly volumeId: string; readonly seq: number; readonly record: string } | null;
}

async function readFacts({ tss }: MachineTpm): Promise<TpmFacts> {
  const permanent = await readPermanent(tss);
  const has = (bit: number) => (permanent & bit) !== 0;
  const epoch = await readEpoch(tss);
  const anchor = await readAnchor(tss);
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
    `audit anchor     ${facts.audit === null ? "none" : `volume ${facts.audit.volumeId}, record ${facts.audit.seq}`}`,
  ].join("\n");
}
