import { createHash } from "node:crypto";
import { join } from "node:path";
import { HANDLE_RANGE, type HashName, TpmError, type TpmObject, Tpm as Tss } from "node-tpm2-tss";
import {
  type AttestationKey,
  type AttestationKeyKind,
  AttestError,
  type EkCertificate,
  type EndorsementKeyKind,
  type EndorsementKeyPublic,
  type PcrBank,
  type Quote,
  type Tpm,
} from "../attest/index.ts";
import { type CertifiedKey, createCertifiedKey, loadObject } from "./certified-key.ts";
import { endorsementKeyPublic, openEkPolicy, openEndorsementKey } from "./endorsement.ts";
import { attestationKeyTemplates, readEkCertificates } from "./tpm-templates.ts";

export interface TpmLocation {
  /** `device:/dev/tpmrm0` in a guest. Explicit: nothing is searched for. */
  readonly tcti: string;
  /** Directory of tpm2_tss.node. Default: build/native of the project. */
  readonly nativeDirectory?: string;
}

/** The TPM as the agent attests with it, and the connection itself for the sealing functions of this folder. */
export interface MachineTpm extends Tpm {
  readonly tss: Tss;
  /**
   * A signing key of this boot, which `key` certifies: see `createCertifiedKey`.
   * @param purpose the certificate's extraData, at most 64 bytes
   */
  certifiedKey(key: AttestationKey, purpose: Uint8Array): Promise<CertifiedKey>;
  /**
   * After `tss.lost`: a new connection, with the attestation keys on it. Keys and certified keys that the caller has stay good. A TPM that was
   * reset meanwhile does not load what it saved before, and so it is not taken: the boot that was measured is over.
   * @throws AttestError where that cannot be had; then nothing is sent to the TPM until a later call succeeds
   */
  reopen(): Promise<void>;
}

/** An attestation key as the TPM has it now, and as it gives it back to another connection of the same boot. */
interface KeptKey {
  loaded: TpmObject;
  readonly context: Uint8Array;
}

/** Connects to a TPM. Throws AttestError `ERR_TPM_UNAVAILABLE` when there is none, or the addon is missing. */
export async function openTpm({ tcti, nativeDirectory = defaultNativeDirectory() }: TpmLocation): Promise<MachineTpm> {
  try {
    return new EsysTpm(await Tss.open({ tcti, nativeDirectory }), { managed: tcti.startsWith("device:") });
  } catch (cause) {
    const got = cause instanceof Error ? cause.message : String(cause);
    throw new AttestError("ERR_TPM_UNAVAILABLE", "tpm", {
      expected: `a TPM at ${tcti}`,
      got,
      cause,
    });
  }
}

/** Said by whoever bundles a program for a system without the project. */
declare const IRONCLAW_PROGRAMS: string | undefined;

/** Where this machine's native parts are. A bundle has no module directory of its own: it names one, or passes nativeDirectory. */
export function defaultNativeDirectory(): string {
  if (typeof IRONCLAW_PROGRAMS === "string") return IRONCLAW_PROGRAMS;
  return join(import.meta.dirname ?? ".", "..", "build", "native");
}

/** The `Tpm` of attest over libtss2-esys. Holds no object or session between calls but attestation keys. */
class EsysTpm implements MachineTpm {
  readonly tss: Tss;
  readonly #managed: boolean;
  readonly #keys = new Map<AttestationKey, KeptKey>();
  /** They change with a reset only, and that ends this process. */
  #banks: readonly HashName[] | null = null;

  /** @param managed the kernel flushes what a connection leaves: a TPM without a resource manager is an emulator that nobody else has */
  constructor(tss: Tss, { managed }: { readonly managed: boolean }) {
    this.tss = tss;
    this.#managed = managed;
  }

  activeBanks(): Promise<readonly PcrBank[]> {
    return answered(async () => (await this.#allocated()).filter(isPcrBank));
  }

  pcrRead(bank: PcrBank, indices: readonly number[]): Promise<Map<number, Uint8Array>> {
    return answered(async () => {
      const values = new Map((await this.tss.pcrRead([{ bank, pcrs: indices }])).get(bank) ?? []);
      const missing = indices.filter((index) => !values.has(index));
      if (missing.length === 0) return values;
      throw new AttestError("ERR_TPM", `${bank} bank`, {
        expected: `PCR ${missing.join(", ")}`,
        got: "none",
      });
    });
  }

  pcrExtend(index: number, ...events: readonly Readonly<Record<PcrBank, Uint8Array>>[]): Promise<void> {
    return answered(async () => {
      const banks = await this.#allocated();
      const inBanks = events.map((digests) => new Map(banks.map((bank) => [bank, digestIn(bank, digests)] as const)));
      await this.tss.pcrExtendAll(index, inBanks);
    });
  }

  createAttestationKey(kind: AttestationKeyKind = "p256"): Promise<AttestationKey> {
    return answered(async () => {
      const primary = await this.tss.createPrimary("endorsement", attestationKeyTemplates[kind]);
      const kept: KeptKey = { loaded: primary, context: await savedOrFlushed(this.tss, primary) };
      const key: AttestationKey = {
        publicArea: primary.publicArea,
        name: primary.name,
        get handle() {
          return kept.loaded.tr;
        },
        [Symbol.asyncDispose]: () => {
          this.#keys.delete(key);
          return kept.loaded[Symbol.asyncDispose]();
        },
      };
      this.#keys.set(key, kept);
      return key;
    });
  }

  quote(key: AttestationKey, extraData: Uint8Array, bank: PcrBank, pcrs: readonly number[]): Promise<Quote> {
    return answered(() => this.tss.quote(this.#loaded(key), extraData, [{ bank, pcrs }]));
  }

  certifiedKey(key: AttestationKey, purpose: Uint8Array): Promise<CertifiedKey> {
    return answered(() => createCertifiedKey(this.tss, this.#loaded(key), purpose));
  }

  ekCertificates(): Promise<readonly EkCertificate[]> {
    return answered(() => readEkCertificates(this.tss));
  }

  endorsementKey(kind: EndorsementKeyKind): Promise<EndorsementKeyPublic> {
    return answered(() => endorsementKeyPublic(this.tss, kind));
  }

  activateCredential(
    key: AttestationKey,
    credentialBlob: Uint8Array,
    encryptedSecret: Uint8Array,
    kind: EndorsementKeyKind = "p384",
  ): Promise<Uint8Array> {
    return answered(async () => {
      await using ek = await openEndorsementKey(this.tss, kind);
      // Keeps the credential off a bus that is only listened to. The EK's Name is not checked here, so it does not stop
      // somebody in the middle of the bus; that one learns a challenge, no sealed secret.
      await using cipher = await this.tss.startAuthSession({
        kind: "hmac",
        saltKey: ek,
        encrypt: true,
      });
      await using policy = await openEkPolicy(this.tss, kind);
      const sessions = ["password", policy, cipher] as const;
      return await this.tss.activateCredential(this.#loaded(key), ek, credentialBlob, encryptedSecret, { sessions });
    });
  }

  reopen(): Promise<void> {
    return answered(async () => {
      const again = new Map<KeptKey, TpmObject>();
      await this.tss.reopen(async (fresh) => {
        if (!this.#managed) await flushEverything(fresh);
        for (const kept of this.#keys.values()) again.set(kept, await loadObject(fresh, kept.context));
      });
      for (const [kept, object] of again) kept.loaded = object;
    });
  }

  close(): Promise<void> {
    return this.tss.close();
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #allocated(): Promise<readonly HashName[]> {
    this.#banks ??= await allocatedBanks(this.tss);
    return this.#banks;
  }

  #loaded(key: AttestationKey): TpmObject {
    const kept = this.#keys.get(key);
    if (kept === undefined) throw new TypeError("attestation key: made by another connection");
    return kept.loaded;
  }
}

async function savedOrFlushed(tss: Tss, object: TpmObject): Promise<Uint8Array> {
  try {
    return await tss.contextSave(object);
  } catch (cause) {
    await tss.flushContext(object);
    throw cause;
  }
}

async function flushEverything(tss: Tss): Promise<void> {
  for (const range of [HANDLE_RANGE.transient, HANDLE_RANGE.loadedSession])
    for (const handle of await tss.handles(range)) await tss.flushHandle(handle);
}

async function allocatedBanks(tss: Tss): Promise<readonly HashName[]> {
  return (await tss.pcrBanks()).filter(({ pcrs }) => pcrs.length > 0).map(({ bank }) => bank);
}

function isPcrBank(bank: HashName): bank is PcrBank {
  return bank === "sha256" || bank === "sha384";
}

/** OpenSSL's names of the banks that this project does not keep. */
const FURTHER_BANKS = {
  sha1: "sha1",
  sha512: "sha512",
  sm3_256: "sm3",
  sha3_256: "sha3-256",
  sha3_384: "sha3-384",
  sha3_512: "sha3-512",
} as const;

/** No bank stays open: a PCR that keeps its value in one bank could be replayed there. */
function digestIn(bank: HashName, digests: Readonly<Record<PcrBank, Uint8Array>>): Uint8Array {
  if (isPcrBank(bank)) return digests[bank];
  return Uint8Array.from(createHash(FURTHER_BANKS[bank]).update(digests.sha384).digest());
}

/** Turns the binding's error into the one the `Tpm` interface promises. */
async function answered<T>(command: () => Promise<T>): Promise<T> {
  try {
    return await command();
  } catch (cause) {
    if (cause instanceof TpmError) throw new AttestError("ERR_TPM", cause.message, { cause });
    throw cause;
  }
}
