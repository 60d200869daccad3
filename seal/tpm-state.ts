import { PROPERTY, TpmError, type Tpm as Tss } from "node-tpm2-tss";
import { type EndorsementKeyKind, ekProfiles, ekTemplate } from "../attest/index.ts";
import { equalBytes, SEAL_PCRS, toHex } from "../policy/index.ts";
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
  /** Names of the endorsement keys that the TPM's own certificates are for. Looked at only when the EK differs. */
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

/** The EK under which a credential is sealed, and the credential's name. */
export interface WantedState {
  readonly ekName: Uint8Array;
  readonly name: string;
}

/**
 * @throws TpmError when the TPM does not even answer such questions, e.g. for want of a free slot; SealError ERR_SEAL_RECORD for a
 * login record or anchor that no agent wrote
 */
export async function readTpmState(tss: Tss, wanted: WantedState): Promise<TpmState> {
  const ek = await readEkState(tss, wanted.ekName);
  return { ...ek, ...(await readMachineState(tss)), login: await readLogin(tss, wanted.name) };
}

/** `readTpmState` of each, by the credential's name. What is not about a single one is asked for once. */
export async function readTpmStates(tss: Tss, wanted: readonly WantedState[]): Promise<ReadonlyMap<string, TpmState>> {
  const machine = await readMachineState(tss);
  const eks = new Map<string, EkState>();
  const states = new Map<string, TpmState>();
  for (const { ekName, name } of wanted) {
    const ek = eks.get(toHex(ekName)) ?? (await readEkState(tss, ekName));
    eks.set(toHex(ekName), ek);
    states.set(name, { ...ek, ...machine, login: await readLogin(tss, name) });
  }
  return states;
}

type EkState = Pick<TpmState, "ek" | "certifiedEkNames" | "inOwnerHierarchy">;

async function readEkState(tss: Tss, ekName: Uint8Array): Promise<EkState> {
  const kind = ekKindOfName(ekName);
  const ek = await readEk(tss, kind, ekName);
  if (ek.kind === "name" && equalBytes(ek.name, ekName)) return { ek, certifiedEkNames: [], inOwnerHierarchy: false };
  return {
    ek,
    certifiedEkNames: await readCertifiedNames(tss),
    inOwnerHierarchy: await isOwnerKey(tss, kind, ekName),
  };
}

async function readMachineState(tss: Tss): Promise<Omit<TpmState, keyof EkState | "login">> {
  const properties = await tss.properties(PROPERTY.permanent, 32);
  const property = (tag: number) => properties.get(tag) ?? 0;
  return {
    epoch: await readEpoch(tss),
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
