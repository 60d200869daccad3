import { randomBytes } from "node:crypto";
import type { TpmObject } from "node-tpm2-tss";
import { AGENT_PCR, toHex } from "../../policy/index.ts";
import {
  abortReseal,
  type Credential,
  carryOutOrder,
  chooseCredentials,
  deriveOwnership,
  diagnoseUnseal,
  encodeAnchor,
  encodeLoginRecord,
  encodeOrder,
  freezeHex,
  type Order,
  type Ownership,
  openEndorsementKey,
  provisionEpoch,
  provisionRecords,
  readAnchor,
  readEpoch,
  readFreeze,
  readLogin,
  readTpmState,
  requireOrdered,
  reseal,
  type SealedPackage,
  takeOwnership,
  type UnsealFinding,
  verifyOrder,
} from "../../seal/index.ts";
import { type CredentialCheck, explained } from "../doctor/index.ts";
import { AgentError } from "../errors.ts";
import type { LaunchEnvironment, LaunchRecord } from "../launch/environment.ts";
import { tpmStep } from "../launch/unseal.ts";
import type { ReportSources } from "../report.ts";
import { createTurns, type Turns } from "../turns.ts";

/** What an operator can ask a running machine about its sealed credentials, and have it do. */
export interface SealingService {
  check(): Promise<readonly CredentialCheck[]>;
  /** Takes a new generation in, as a transaction; the next boot uses it. */
  reseal(envelope: Uint8Array): Promise<{ readonly name: string; readonly generation: number }>;
  abortReseal(name: string): Promise<void>;
  /**
   * Carries out what the operator signed.
   * @param owner what the TPM's owner authorisation follows from, as a credential for this machine; null where the order needs none
   */
  order(envelope: Uint8Array, owner: ActivatedCredential | null): Promise<{ readonly order: string }>;
  /** Sets owner and lockout authorisation from a secret that was made for this machine's EK and AK. */
  own(credentialBlob: Uint8Array, encryptedSecret: Uint8Array): Promise<void>;
  /** The TPM's records as they are now, in hexadecimal; null where there is none. An order names them. */
  records(): Promise<{
    readonly ekName: string;
    readonly boot: string;
    readonly logins: Readonly<Record<string, string | null>>;
    readonly anchor: string | null;
    readonly freeze: string | null;
  }>;
}

/** For TPM2_ActivateCredential. */
export interface ActivatedCredential {
  readonly credentialBlob: Uint8Array;
  readonly encryptedSecret: Uint8Array;
}

/** What the service needs of a launch's environment, and of what reports are made of. */
export type SealingEnvironment = Pick<LaunchEnvironment, "tss" | "store" | "now" | "inputs">;
export interface SealingSources {
  readonly record: Pick<LaunchRecord, "state">;
  /** The machine's keys. @throws AgentError ERR_ENVIRONMENT while there are none */
  readonly identity: () => Pick<ReportSources, "tpm" | "ak" | "ekKind" | "ekName">;
  /** Whether what is written into the store is there after a reboot. */
  readonly storeKeeps: boolean;
  /** Shared with whoever else changes what these acts look at before they change it. Default: its own. */
  readonly turns?: Turns;
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
  const used = new Set<string>();
  const { turns = createTurns() } = sources;
  const inTurn = <T>(act: () => Promise<T>): Promise<T> => turns(() => tpmStep("TPM", act));
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
    order: (envelope, owner) =>
      inTurn(async () => {
        requireLaunched();
        const order = await verifyOrder(envelope, requireDocuments(environment).anchors.operator);
        // While it is in use, the volume's anchor is written again and again.
        if (order.order === "new-volume") requireState("refused");
        const { ekName } = sources.identity();
        const place = { ekName, boot, provision: () => provision(environment) };
        if (order.order === "unfreeze") useOnce(used, order);
        if (owner === null) await carryOutOrder(tss, order, { ...place, owner });
        else
          await withOwnership(tss, sources.identity(), owner, ({ ownerAuth }, saltKey) =>
            carryOutOrder(tss, order, { ...place, owner: { auth: ownerAuth, saltKey } }),
          );
        return { order: order.order };
      }),
    own: (credentialBlob, encryptedSecret) =>
      inTurn(async () => {
        requireLaunched();
        await requireProvisioned(tss);
        await withOwnership(tss, sources.identity(), { credentialBlob, encryptedSecret }, (ownership, ek) =>
          takeOwnership(tss, ek, ownership),
        );
      }),
    records: () => inTurn(async () => ({ boot: toHex(boot), ...(await readRecords(environment, sources.identity())) })),
  };
}

/** The same bits can be set again, so that the state alone does not use up an order to clear them. */
function useOnce(used: Set<string>, order: Order): void {
  const document = new TextDecoder().decode(encodeOrder(order));
  requireOrdered("use", "its first", used.has(document) ? "another one" : "its first");
  used.add(document);
}

/** Opens the credential of whoever owns this TPM, and forgets what was in it. */
async function withOwnership(
  tss: SealingEnvironment["tss"],
  { tpm, ak, ekKind }: ReturnType<SealingSources["identity"]>,
  { credentialBlob, encryptedSecret }: ActivatedCredential,
  use: (ownership: Ownership, ek: TpmObject) => Promise<void>,
): Promise<void> {
  const secret = await tpm.activateCredential(ak, credentialBlob, encryptedSecret, ekKind);
  const ownership = deriveOwnership(secret);
  try {
    await using ek = await openEndorsementKey(tss, ekKind);
    await use(ownership, ek);
  } finally {
    for (const bytes of [secret, ownership.ownerAuth, ownership.lockoutAuth]) bytes.fill(0);
  }
}

async function readRecords(environment: SealingEnvironment, { ekName }: Pick<ReportSources, "ekName">) {
  const { tss } = environment;
  const logins: [string, string | null][] = [];
  for (const { sealed } of await currentCredentials(environment)) {
    const login = await readLogin(tss, sealed.name);
    logins.push([sealed.name, login.kind === "record" ? toHex(encodeLoginRecord(login.record)) : null]);
  }
  const anchor = await readAnchor(tss);
  const freeze = await readFreeze(tss);
  return {
    ekName: toHex(ekName),
    logins: Object.fromEntries(logins),
    anchor: anchor.kind === "anchor" ? toHex(encodeAnchor(anchor.anchor)) : null,
    freeze: freeze.kind === "bits" ? freezeHex(freeze.bits) : null,
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
    findings: explained(findings.map(asCapped)),
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
