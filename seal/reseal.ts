import type { Tpm as Tss } from "node-tpm2-tss";
import { type Anchors, equalBytes, type Release, toHex } from "../policy/index.ts";
import { diagnoseBlob } from "./blob-diagnosis.ts";
import { blocks, diagnoseUnseal, type UnsealFinding } from "./diagnosis.ts";
import { SealError } from "./errors.ts";
import { type SealedPackage, verifySealedPackage } from "./package.ts";
import { encodeSlot, type Store, type StoreContent, type StoreEntry } from "./store.ts";
import { readTpmState } from "./tpm-state.ts";

export interface ResealOrder {
  readonly tss: Tss;
  readonly store: Store;
  readonly anchors: Anchors;
  /** The new package, as the operator signed it. */
  readonly envelope: Uint8Array;
  /** Verified releases, of which one has to unseal it at the next boot. */
  readonly releases: readonly Release[];
  readonly now: Date;
}

/** What only the next boot can show: the PCRs of a launch that is over, or has not been. */
const LEFT_TO_THE_BOOT: ReadonlySet<string> = new Set([
  "measurement-changed",
  "agent-not-launched",
  "agent-pcr-capped",
  "pcr-never-extended",
]);

/**
 * Takes a new generation of a credential into the store, as one transaction: verify, import, load, compare the loaded public area,
 * and check everything about the releases but the PCRs. The generation that served stays until the new one has; the first real
 * unseal is the next boot. A crash at any step leaves either only the old generation or both.
 *
 * @returns the package that is pending now
 * @throws SealError ERR_RESEAL_REFUSED with every finding, ERR_SEAL_WRONG_PARENT, ERR_SEALED_MALFORMED, ERR_STORE; PolicyError; TpmError
 */
export async function reseal({ tss, store, anchors, envelope, releases, now }: ResealOrder): Promise<SealedPackage> {
  const sealed = await verifySealedPackage(envelope, anchors);
  requireNewer(sealed, store.content);
  const state = await readTpmState(tss, sealed);
  const knownEkName = store.content.ekName;
  const question = { state, rootKeyPem: anchors.releaseRoot, sealed, releases, knownEkName, now };
  const findings = diagnoseUnseal(question).filter((found) => blocks(found) && !LEFT_TO_THE_BOOT.has(found.code));
  if (findings.length > 0) throw refused(findings);
  const blob = await diagnoseBlob(tss, sealed, null);
  if (blob.kind === "damaged") throw refused([blob.finding]);
  const entry: StoreEntry = {
    ...{
      name: sealed.name,
      generation: sealed.generation,
      state: "pending",
      package: envelope,
      imported: blob.imported,
    },
  };
  store.write(withEntry(store.content, entry));
  return sealed;
}

/** Gives up a generation that has not served. @throws SealError ERR_RESEAL_REFUSED when there is none */
export function abortReseal(store: Store, name: string): void {
  const { content } = store;
  const entries = content.entries.filter((entry) => !(entry.name === name && entry.state === "pending"));
  if (entries.length === content.entries.length)
    throw new SealError("ERR_RESEAL_REFUSED", `reseal of ${name}`, { expected: "a pending generation", got: "none" });
  store.write({ ...content, entries });
}

/** After a launch with this package came to serve: it stays, earlier generations of its name go. A later one was handed in since. */
export function commitServed(store: Store, entry: Omit<StoreEntry, "state">, ekName: Uint8Array): void {
  const { entries } = store.content;
  const others = entries.filter(({ name, generation }) => name !== entry.name || generation > entry.generation);
  const kept = sorted([...others, { ...entry, state: "served" }]);
  const content: StoreContent = { ...store.content, ekName: toHex(ekName), entries: kept };
  if (!equalBytes(encodeSlot(0n, content), encodeSlot(0n, store.content))) store.write(content);
}

/** Keeps a private area beside the package it was imported from, before anything has served. */
export function keepImported(store: Store, entry: Omit<StoreEntry, "state">): void {
  const known = store.content.entries.find(
    ({ name, generation }) => name === entry.name && generation === entry.generation,
  );
  store.write(withEntry(store.content, { ...entry, state: known?.state ?? "pending" }));
}

function withEntry(content: StoreContent, entry: StoreEntry): StoreContent {
  const others = content.entries.filter(
    ({ name, generation, state }) =>
      name !== entry.name || (generation !== entry.generation && !(state === "pending" && entry.state === "pending")),
  );
  return { ...content, entries: sorted([...others, entry]) };
}

function sorted(entries: readonly StoreEntry[]): readonly StoreEntry[] {
  return [...entries].sort((a, b) => (a.name === b.name ? a.generation - b.generation : a.name < b.name ? -1 : 1));
}

function requireNewer({ name, generation }: SealedPackage, { entries }: StoreContent): void {
  const newest = Math.max(0, ...entries.filter((entry) => entry.name === name).map((entry) => entry.generation));
  if (generation > newest) return;
  throw new SealError("ERR_RESEAL_REFUSED", `reseal of ${name}`, {
    expected: `a generation after ${newest}`,
    got: `${generation}`,
    hint: "seal again with a higher --generation, or give up the pending one with `ironclaw reseal --abort`",
  });
}

function refused(findings: readonly UnsealFinding[]): SealError {
  return new SealError("ERR_RESEAL_REFUSED", "reseal", {
    expected: "a package that the next boot can unseal",
    got: findings.map(({ code, item }) => `${code} (${item})`).join(", "),
  });
}
