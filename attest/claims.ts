import type { SandboxFeature } from "../policy/index.ts";
import type { Incident } from "./incidents.ts";
import type { Reason } from "./reason.ts";

/** Profile of the evidence and of its claims (EVIDENCE.md). */
export const evidenceProfile = "tag:ironclaw,2026:evidence/5";

export const launchStates = [
  "booted",
  "measuring",
  "refused",
  "unsealing",
  "logging-in",
  "checking-keys",
  "capping",
  "serving",
  "draining",
  "stopped",
] as const;
export type LaunchStateName = (typeof launchStates)[number];

/** `installed`: no image at all, but a package on an ordinary system (agent/docs/install.md). */
export const imageVariants = ["demo", "dev", "installed", "release"] as const;
export type ImageVariant = (typeof imageVariants)[number];

export const keyPurposes = ["sign", "decrypt", "unwrap"] as const;

/** Each of these is an event of the agent log too; `verifyEvidence` refuses a difference. Digests: 32 bytes. */
export interface MeasuredClaims {
  readonly launch: LaunchStateName;
  /** `null` where the launch did not come that far. */
  readonly policy: Uint8Array | null;
  /** Name of a sandbox profile to digest. */
  readonly profiles: ReadonlyMap<string, Uint8Array>;
  /** Path of a PKCS#11 library to digest. */
  readonly libraries: ReadonlyMap<string, Uint8Array>;
  /** Path to digest, the loader, libc and the shim included; of all libraries together. */
  readonly closure: ReadonlyMap<string, Uint8Array>;
}

/** The TPM's own answer to a command of the unsealer. */
export interface UnsealAnswerClaim {
  readonly command: string;
  /** e.g. `0x0000099d` */
  readonly rc: string;
  readonly text: string;
}

export interface TokenClaim {
  /** The policy's name of it. */
  readonly name: string;
  readonly label: string;
  readonly serial: string;
  readonly manufacturer: string;
  readonly model: string;
  readonly firmware: string;
}

export interface KeyClaim {
  readonly name: string;
  /** Name of the token that holds it. */
  readonly token: string;
  /** SHA-256 of the SubjectPublicKeyInfo, 64 lower-case hexadecimal digits. */
  readonly spki: string;
  readonly does: (typeof keyPurposes)[number];
  /** PKCS#11 attribute name to value; an attribute that the library did not answer is absent. */
  readonly attributes: Readonly<Record<string, boolean>>;
}

export const shimRoles = ["active", "spare", "ended"] as const;

/** A shim of a token. Its id is its own for the whole launch, also after its end. */
export interface ShimClaim {
  readonly token: string;
  readonly id: number;
  readonly role: (typeof shimRoles)[number];
  /** Version of Landlock that the shim's sandbox was made with. */
  readonly landlock: number;
  /** `null`: it runs no longer, or nobody looked at it. */
  readonly process: ShimProcessClaim | null;
}

/** The spawner's view of a shim's process. */
export interface ShimProcessClaim {
  readonly uid: number;
  readonly seccompFilters: number;
  /** Those of the spawner itself, which every process of it starts with. */
  readonly inheritedFilters: number;
  /** Effective capabilities as /proc prints them, 16 hexadecimal digits. */
  readonly capabilities: string;
  /** Namespaces that are not init's, e.g. `net:[4026532000]`. */
  readonly namespaces: readonly string[];
}

/** Said by the agent, whose code is measured: as good as the boot PCRs. */
export interface AssertedClaims {
  /** Claimed name; widens nothing. */
  readonly machine: string;
  readonly image: { readonly id: string; readonly variant: ImageVariant };
  readonly reasons: readonly Reason[];
  readonly unseal: readonly UnsealAnswerClaim[];
  /** Those that took their PIN. */
  readonly tokens: readonly TokenClaim[];
  readonly keys: readonly KeyClaim[];
  /** System call to count: what the kernel's notifications showed during the escape probe. */
  readonly probeWitnessed: ReadonlyMap<string, number>;
  /** System call to count: notifications after the probe, of all shims together. */
  readonly violations: ReadonlyMap<string, number>;
  readonly audit: { readonly seq: number; readonly hash: Uint8Array };
  /** The TPM's epoch counter; `null` where it has none. */
  readonly epoch: bigint | null;
  /** Ascending by id. */
  readonly shims: readonly ShimClaim[];
  /** Sandbox features that this kernel lacks and the policy does without. */
  readonly lacks: readonly SandboxFeature[];
  /** What the policy lets a library reach beyond its own files, one line each. */
  readonly exceptions: readonly string[];
  /** Each is an event of the agent log too, in this order; `verifyEvidence` refuses a difference. */
  readonly incidents: readonly Incident[];
}

/** Said by the process in which the vendor's library runs. */
export interface SelfReportedClaims {
  /** Attempt to errno; 0 means that the attempt succeeded. Empty when no shim was started. */
  readonly probe: ReadonlyMap<string, number>;
}

export interface Claims {
  /** 32 bytes, the challenge's. */
  readonly nonce: Uint8Array;
  /** 33 bytes: 01, then SHA-256 of the EK's Name. */
  readonly ueid: Uint8Array;
  /** 16 bytes, drawn by the kernel when it started. No secret. */
  readonly bootSeed: Uint8Array;
  readonly software: { readonly name: string; readonly version: string };
  /** EAT dbgstat: true for image variant `dev`. */
  readonly debugEnabled: boolean;
  readonly measured: MeasuredClaims;
  readonly asserted: AssertedClaims;
  readonly selfReported: SelfReportedClaims;
}
