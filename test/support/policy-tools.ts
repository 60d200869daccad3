import {
  concatBytes,
  EPOCH_INDEX,
  encodeNvOperand,
  encodePolicyApproval,
  encodeTpmtSignature,
  encodeVerificationKeyPublic,
  fromBase64,
  measurePolicy,
  type PolicyStep,
  sha256,
  toHex,
} from "../../policy/index.ts";
import type { SoftwareTpm } from "./swtpm.ts";
import { tpmTool, withFiles } from "./tpm-tools.ts";

/** The epoch counter's handle, as the tools take it. */
export const EPOCH_HANDLE = `0x${EPOCH_INDEX.toString(16).padStart(8, "0")}`;

/** A policy that a key approved. */
export interface Approval {
  readonly keyPem: string;
  readonly steps: readonly PolicyStep[];
  readonly policyRef: Uint8Array;
  readonly signature: string;
}

/** A policy session of tpm2-tools, each step one program: an independent peer of the unsealer and of what raises the epoch. */
export class PolicySession {
  readonly #tpm: SoftwareTpm;
  readonly #file: string;

  private constructor(tpm: SoftwareTpm, file: string) {
    this.#tpm = tpm;
    this.#file = file;
  }

  static async with<T>(tpm: SoftwareTpm, use: (session: PolicySession) => Promise<T>): Promise<T> {
    return withFiles({}, async (at) => {
      await tpmTool(tpm, "tpm2_startauthsession", "--policy-session", "-S", at("session"));
      try {
        return await use(new PolicySession(tpm, at("session")));
      } finally {
        await tpmTool(tpm, "tpm2_flushcontext", at("session"));
      }
    });
  }

  /** How a tool is told to authorise with this session. */
  get authorization(): string {
    return `session:${this.#file}`;
  }

  pcr(indices: readonly number[]): Promise<string> {
    return this.#step("tpm2_policypcr", "-l", `sha256:${indices.join()}`);
  }
  epoch(operation: "ult" | "ule", operand: bigint): Promise<string> {
    return withFiles({ operand: encodeNvOperand(operand) }, (at) =>
      this.#step("tpm2_policynv", "-C", EPOCH_HANDLE, "-i", at("operand"), EPOCH_HANDLE, operation),
    );
  }
  epochUnwritten(): Promise<string> {
    return this.#step("tpm2_policynvwritten", "c");
  }
  command(name: string): Promise<string> {
    return this.#step("tpm2_policycommandcode", name);
  }
  endorsement(): Promise<string> {
    return this.#step("tpm2_policysecret", "-c", "e");
  }

  /** TPM2_PolicyAuthorize with everything it needs: the key loaded, the signature verified, its ticket. */
  async authorize({ keyPem, steps, policyRef, signature }: Approval): Promise<void> {
    const area = encodeVerificationKeyPublic(keyPem);
    const approved = measurePolicy(steps);
    const files = {
      public: concatBytes(Uint8Array.of(area.length >> 8, area.length & 0xff), area),
      signature: encodeTpmtSignature(keyPem, fromBase64(signature)),
      digest: sha256(encodePolicyApproval(approved, policyRef)),
      approved,
    };
    const tpm = this.#tpm;
    await withFiles(files, async (at) => {
      await tpmTool(tpm, "tpm2_loadexternal", "-C", "o", "-u", at("public"), "-c", at("key"), "-n", at("name"));
      const verify = ["-c", at("key"), "-d", at("digest"), "-s", at("signature"), "-t", at("ticket")];
      await tpmTool(tpm, "tpm2_verifysignature", ...verify);
      await tpmTool(tpm, "tpm2_flushcontext", "-t");
      const what = ["-i", at("approved"), "-q", toHex(policyRef), "-n", at("name"), "-t", at("ticket")];
      await this.#step("tpm2_policyauthorize", ...what);
    });
  }

  #step(tool: string, ...args: readonly string[]): Promise<string> {
    return tpmTool(this.#tpm, tool, "-S", this.#file, ...args);
  }
}
