import { PROPERTY, TpmError, type Tpm as Tss } from "node-tpm2-tss";
import { type EndorsementKeyKind, ekProfiles, ekTemplate } from "../attest/index.ts";
import { equalBytes, SEAL_PCRS } from "../policy/index.ts";
import { openEkCertificate } from "./ek-public.ts";
import { ekKindOfName, endorsementKeyPublic } from "./endorsement.ts";
import { type EpochState, readEpoch } from "./epoch.ts";
import { type FreezeState, readFreeze } from "./freeze-bits.ts";
import { type LoginState, readAnchor, readLogin } from "./tpm-records.ts";
import { readEkCertificates } from "./tpm-templates.ts";

/** Everything about a TPM that decides whether a credential would unseal now, read without using a single authorisation. */
export interface TpmState {
  /** The endorsement key of the wanted kind: its Name, or the TPM's answer to making it. */
  readonly ek: { readonly kind: "name"; readonly name: Uint8Array } | { readonly kind: "failed"; readonly rc: number };
  /** Names of the endorsement keys that the TPM's own certificates are for. */
  readonly certifiedEkNames: readonly Uint8Array[];
  /** Whether the wanted Name is that of the same template in the owner hierarchy. Looked at only when the EK differs. */
  readonly inOwnerHierarchy: boolean;
  readonly epoch: EpochState;
  readonly login: LoginState;
  /** Whether the audit anchor's index is there, set or not. */
  readonly hasAnchor: boolean;
  readonly freeze: FreezeState;
  /** Values of the seal PCRs; null when the SHA-256 bank is not active. */
  readonly pcrs: ReadonlyMap<number, Uint8Array> | null;
  /** TPMA_PERMANENT and TPMA_STARTUP_CLEAR. */
  readonly permanent: number;
  readonly startupClear: number;
  readonly lockout: { readonly counter: number; readonly maxTries: number; readonly intervalSeconds: number };
}

/**
 * @throws TpmError when the TPM does not even answer such questions, e.g. for want of a free slot; SealError ERR_SEAL_RECORD for a
 * login record or anchor that no agent wrote
 */
export async function readTpmState(
  tss: Tss,
  wanted: { readonly ekName: Uint8Array; readonly name: string },
): Promise<TpmState> {
  const kind = ekKindOfName(wanted.ekName);
  const ek = await readEk(tss, kind, wanted.ekName);
  const found = ek.kind === "name" && equalBytes(ek.name, wanted.ekName);
  const properties = await tss.properties(PROPERTY.permanent, 32);
  const property = (tag: number) => properties.get(tag) ?? 0;
  return {
    ek,
    certifiedEkNames: await readCertifiedNames(tss),
    inOwnerHierarchy: !found && (await isOwnerKey(tss, kind, wanted.ekName)),
    epoch: await readEpoch(tss),
    login: await readLogin(tss, wanted.name),
    hasAnchor: (await readAnchor(tss)).kind !== "missing",
    freeze: await readFreeze(tss),
    pcrs: await readSealPcrs(tss),
    permanent: property(PROPERTY.permanent),
    startupClear: property(PROPERTY.startupClear),
    lockout: {
      counter: property(PROPERTY.lockoutCounter),
      maxTries: property(PROPERTY.maxAuthFail),
      intervalSeconds: property(PROPERTY.lockoutInterval),
    },
  };
}

/** TPM_RC_HIERARCHY and TPM_RC_HANDLE of the first handle, TPM_RC_BAD_AUTH of the first session: the hierarchy cannot be used. */
const HIERARCHY_CLOSED: readonly number[] = [0x185, 0x18b, 0x9a2];

async function readEk(tss: Tss, kind: EndorsementKeyKind, wanted: Uint8Array): Promise<TpmState["ek"]> {
  try {
    return { kind: "name", name: (await endorsementKeyPublic(tss, kind, wanted)).name };
  } catch (error) {
    if (error instanceof TpmError && HIERARCHY_CLOSED.includes(error.rc)) return { kind: "failed", rc: error.rc };
    throw error;
  }
}

async function readCertifiedNames(tss: Tss): Promise<readonly Uint8Array[]> {
  const certificates = await readEkCertificates(tss);
  return certificates.flatMap(({ der }) => {
    try {
      return [openEkCertificate(der).name];
    } catch {
      return []; // of a kind of key that nothing is sealed to here
    }
  });
}

/** A package for a key that was made from the EK's template in the wrong hierarchy: tools offer that by mistake. */
async function isOwnerKey(tss: Tss, kind: EndorsementKeyKind, name: Uint8Array): Promise<boolean> {
  try {
    await using key = await tss.createPrimary("owner", ekTemplate(ekProfiles[kind]));
    return equalBytes(key.name, name);
  } catch (error) {
    // An owner with an authorisation of its own, or a hierarchy that is off: then it cannot be told.
    if (error instanceof TpmError && HIERARCHY_CLOSED.includes(error.rc)) return false;
    throw error;
  }
}

async function readSealPcrs(tss: Tss): Promise<TpmState["pcrs"]> {
  const bank = (await tss.pcrRead([{ bank: "sha256", pcrs: SEAL_PCRS }])).get("sha256");
  return bank !== undefined && SEAL_PCRS.every((index) => bank.has(index)) ? bank : null;
}
