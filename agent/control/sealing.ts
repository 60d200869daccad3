import { randomBytes } from "node:crypto";
import { AGENT_PCR, toHex } from "../../policy/index.ts";
import {
  abortReseal,
  adviceFor,
  blocks,
  type Credential,
  carryOutOrder,
  chooseCredentials,
  deriveOwnership,
  diagnoseUnseal,
  encodeAnchor,
  encodeLoginRecord,
  openEndorsementKey,
  provisionEpoch,
  provisionRecords,
  readAnchor,
  readEpoch,
  readLogin,
  readTpmState,
  reseal,
  type SealedPackage,
  takeOwnership,
  type UnsealFinding,
  verifyOrder,
} from "../../seal/index.ts";
import { AgentError } from "../errors.ts";
import type { LaunchEnvironment, LaunchRecord } from "../launch/environment.ts";
import { tpmStep } from "../launch/unseal.ts";
import type { ReportSources } from "../report.ts";

/** What stands between one credential and the next boot's unseal. */
export interface CredentialCheck {
  readonly name: string;
  readonly generation: number;
  readonly findings: readonly (UnsealFinding & { readonly blocks: boolean; readonly advice: string })[];
}

/** What an operator can ask a running machine about its sealed credentials, and have it do. */
export interface SealingService {
  check(): Promise<readonly CredentialCheck[]>;
  /** Takes a new generation in, as a transaction; the next boot uses it. */
  reseal(envelope: Uint8Array): Promise<{ readonly name: string; readonly generation: number }>;
  abortReseal(name: string): Promise<void>;
  /** Carries out what the operator signed. */
  order(envelope: Uint8Array): Promise<{ readonly order: string }>;
  /** Sets owner and lockout authorisation from a secret that was made for this machine's EK and AK. */
  own(credentialBlob: Uint8Array, encryptedSecret: Uint8Array): Promise<void>;
  /** The TPM's records as they are now, in hexadecimal; null where there is none. An order names them. */
  records(): Promise<{
    readonly ekName: string;
    readonly boot: string;
    readonly logins: Readonly<Record<string, string | null>>;
    readonly anchor: string | null;
  }>;
}

/** What the service needs of a launch's environment, and of what reports are made of. */
export type SealingEnvironment = Pick<LaunchEnvironment, "tss" | "store" | "now" | "inputs">;
export interface SealingSources {
  readonly record: Pick<LaunchRecord, "state">;
  /** The machine's keys. @throws AgentError ERR_ENVIRONMENT while there are none */
  readonly identity: () => Pick<ReportSources, "tpm" | "ak" | "ekKind" | "ekName">;
  /** Whether what is written into the store is there after a reboot. */
  readonly storeKeeps: boolean;
}

/**
 * One act at a time: two transactions at once could each see what the other is about to change. Nothing is changed while a launch is
 * under way.
 */
export function createSealingService(environment: SealingEnvironment, sources: SealingSources): SealingService {
  const { tss, store } = environment;
  const requireState = (...expected: readonly LaunchRecord["state"]["kind"][]) => {
    const { kind } = sources.record.state;
    if (expected.includes(kind)) return;
    throw new AgentError("ERR_LAUNCH", "launch", { expected: expected.join(" or "), got: kind });
  };
  const requireLaunched = () => requireState("serving", "refused", "stopped");
  const boot = Uint8Array.from(randomBytes(32));
  let tail: Promise<unknown> = Promise.resolve();
  const inTurn = <T>(act: () => Promise<T>): Promise<T> => {
    const turn = tail.then(() => tpmStep("TPM", act));
    tail = turn.catch(() => undefined);
    return turn;
  };
  return {
    check: () =>
      inTurn(async () => {
        const checks: CredentialCheck[] = [];
        for (const { sealed } of await currentCredentials(environment))
          checks.push(await checkCredential(environment, sealed));
        return checks;
      }),
    reseal: (envelope) =>
      inTurn(async () => {
        requireLaunched();
        if (!sources.storeKeeps)
          throw new AgentError("ERR_ENVIRONMENT", "store", {
            expected: "one that is there after a reboot",
            got: "none",
            hint: "attach the machine's store disk and reboot, or put the new package into the cabinet",
          });
        const { anchors, releases } = requireDocuments(environment);
        const now = new Date(environment.now());
        const { name, generation } = await reseal({ tss, store, anchors, envelope, releases, now });
        return { name, generation };
      }),
    abortReseal: (name) =>
      inTurn(async () => {
        requireLaunched();
        abortReseal(store, name);
      }),
    order: (envelope) =>
      inTurn(async () => {
        requireLaunched();
        const order = await verifyOrder(envelope, requireDocuments(environment).anchors.operator);
        // While it is in use, the volume's anchor is written again and again.
        if (order.order === "new-volume") requireState("refused");
        await carryOutOrder(tss, order, {
          ekName: sources.identity().ekName,
          boot,
          provision: () => provision(environment),
        });
        return { order: order.order };
      }),
    own: (credentialBlob, encryptedSecret) =>
      inTurn(async () => {
        requireLaunched();
        await requireProvisioned(tss);
        const { tpm, ak, ekKind } = sources.identity();
        const secret = await tpm.activateCredential(ak, credentialBlob, encryptedSecret, ekKind);
        const ownership = deriveOwnership(secret);
        try {
          await using ek = await openEndorsementKey(tss, ekKind);
          await takeOwnership(tss, ek, ownership);
        } finally {
          for (const bytes of [secret, ownership.ownerAuth, ownership.lockoutAuth]) bytes.fill(0);
        }
      }),
    records: () => inTurn(async () => ({ boot: toHex(boot), ...(await readRecords(environment, sources.identity())) })),
  };
}

async function readRecords(environment: SealingEnvironment, { ekName }: Pick<ReportSources, "ekName">) {
  const { tss } = environment;
  const logins: [string, string | null][] = [];
  for (const { sealed } of await currentCredentials(environment)) {
    const login = await readLogin(tss, sealed.name);
    logins.push([sealed.name, login.kind === "record" ? toHex(encodeLoginRecord(login.record)) : null]);
  }
  const anchor = await readAnchor(tss);
  return {
    ekName: toHex(ekName),
    logins: Object.fromEntries(logins),
    anchor: anchor.kind === "anchor" ? toHex(encodeAnchor(anchor.anchor)) : null,
  };
}

/** The newest generations as of now: what the machine booted with, and what was handed in since. */
async function currentCredentials(environment: SealingEnvironment): Promise<readonly Credential[]> {
  const booted = [...(environment.inputs.partial.credentials?.values() ?? [])];
  const files = booted.map(({ sealed, envelope }) => ({ path: sealed.name, bytes: envelope }));
  const { anchors } = requireDocuments(environment);
  return [...(await chooseCredentials(anchors, files, environment.store.content)).byName.values()];
}

async function checkCredential(environment: SealingEnvironment, sealed: SealedPackage): Promise<CredentialCheck> {
  const { tss, store } = environment;
  const { anchors, releases } = requireDocuments(environment);
  const findings = diagnoseUnseal({
    ...{ state: await readTpmState(tss, sealed), rootKeyPem: anchors.releaseRoot, sealed, releases },
    ...{ knownEkName: store.content.ekName, now: new Date(environment.now()) },
  });
  return {
    name: sealed.name,
    generation: sealed.generation,
    findings: findings
      .map(asCapped)
      .map((found) => ({ ...found, blocks: blocks(found), advice: adviceFor(found.code) ?? "" })),
  };
}

/** The launch of this boot has ended, so its PCR is capped, whatever events lie between. */
function asCapped(found: UnsealFinding): UnsealFinding {
  return found.item.startsWith(`PCR ${AGENT_PCR} `) ? { ...found, code: "agent-pcr-capped" } : found;
}

async function provision(environment: SealingEnvironment): Promise<void> {
  const { anchors, releases } = requireDocuments(environment);
  const [release] = releases;
  if (release === undefined) throw new AgentError("ERR_LAUNCH", "release", { expected: "one", got: "none" });
  await provisionEpoch(environment.tss, anchors.releaseRoot, release.delegation);
  await provisionRecords(environment.tss);
}

/** With an owner set, the counter could only be defined with the escrow file: it has to be there first. */
async function requireProvisioned(tss: SealingEnvironment["tss"]): Promise<void> {
  const epoch = await readEpoch(tss);
  if (epoch.kind === "present" && epoch.value !== null) return;
  throw new AgentError("ERR_LAUNCH", "epoch counter", {
    expected: "defined, before the TPM gets an owner",
    got: epoch.kind,
  });
}

function requireDocuments({ inputs }: SealingEnvironment) {
  const { anchors, releases } = inputs.partial;
  if (anchors !== undefined && releases !== undefined) return { anchors, releases };
  throw new AgentError("ERR_ENVIRONMENT", "cabinet", {
    expected: "trust anchors and a release",
    got: "none that hold",
  });
}
