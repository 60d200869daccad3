import { randomBytes } from "node:crypto";
import { makeCredential, parseTpmPublic } from "../../attest/index.ts";
import { fromBase64, fromHex, toBase64, toHex } from "../../policy/index.ts";
import {
  carryOutOrder,
  type EkPublic,
  encodeAnchor,
  encodeLoginRecord,
  freezeHex,
  type Order,
  openEkCertificate,
  openEndorsementKey,
  readAnchor,
  readFreeze,
  readLogin,
  signOrder,
  verifyOrder,
} from "../../seal/index.ts";
import type { ControlClient } from "../../vm-images/control-client.ts";
import { AgentError } from "../errors.ts";
import { type CommandInput, type CommandOption, UsageError } from "./command.ts";
import { openMachine } from "./machine-ports.ts";
import { openSigningKey } from "./signing-key.ts";
import { type readEscrow, requireEscrowOf, TCTI_OPTION, withTpm } from "./tpm-options.ts";

export const ORDER_OPTIONS = {
  operator: { type: "string", value: "KEY", help: "operator key: PEM file (mode 0600) or pkcs11: URI", required: true },
  machine: { type: "string", value: "DIR", help: "the running machine's directory of port sockets" },
  tcti: { ...TCTI_OPTION, required: false, help: "a TPM instead of a machine" },
  kind: {
    type: "string",
    value: "KIND",
    help: "with --tcti: endorsement key that names the TPM, p384 (default) or rsa2048",
  },
} as const satisfies Readonly<Record<string, CommandOption>>;

/** What an order has to name: this TPM, and its records as they are now. */
export interface PresentRecords {
  readonly ekName: string;
  /** 64 bytes in hexadecimal; null when there is no record. */
  login(name: string): string | null;
  readonly anchor: string | null;
  /** The freeze bits, 16 hexadecimal digits; null when they are not there. */
  readonly freeze: string | null;
  /** The running boot's nonce. Where no machine runs, one for this order alone. */
  readonly boot: string;
}

/** The owner of the TPM, for an order that needs one. */
export type Owner = Awaited<ReturnType<typeof readEscrow>>;

/**
 * Reads the present records, has the operator's key sign what `make` makes of them, and gives it to the machine or TPM.
 * @param owner whose authorisation goes with the order, to the TPM that the escrow file is for and to no other
 */
export async function giveOrder(
  input: CommandInput,
  make: (records: PresentRecords) => Order,
  owner: Owner | null = null,
): Promise<Order> {
  const operator = await openSigningKey(input.text("operator"));
  return input.optional("machine") === undefined
    ? orderTpm(input, make, operator, owner)
    : orderMachine(input, make, operator, owner);
}

type Operator = Awaited<ReturnType<typeof openSigningKey>>;

async function orderMachine(
  input: CommandInput,
  make: (records: PresentRecords) => Order,
  operator: Operator,
  owner: Owner | null,
): Promise<Order> {
  const control = await openMachine(input.text("machine"));
  try {
    const { ekName, logins, anchor, freeze, boot } = await control.sealing("records");
    const known =
      typeof logins === "object" && logins !== null ? new Map<string, unknown>(Object.entries(logins)) : new Map();
    const hex = (value: unknown) => (typeof value === "string" ? value : null);
    const order = make({
      ekName: String(ekName),
      login: (name) => hex(known.get(name)),
      anchor: hex(anchor),
      freeze: hex(freeze),
      boot: String(boot),
    });
    const credential = owner === null ? {} : { owner: await ownerCredential(owner, control) };
    await control.sealing("order", { order: toBase64(await signOrder(order, operator)), ...credential });
    return order;
  } finally {
    control.close();
  }
}

function orderTpm(
  input: CommandInput,
  make: (records: PresentRecords) => Order,
  operator: Operator,
  owner: Owner | null,
): Promise<Order> {
  return withTpm(input, async ({ tss }) => {
    await using ek = await openEndorsementKey(tss, input.choice("kind", ["p384", "rsa2048"]));
    const anchor = await readAnchor(tss);
    const name = input.optional("name") ?? "hsm-pin";
    const login = await readLogin(tss, name);
    const freeze = await readFreeze(tss);
    const boot = Uint8Array.from(randomBytes(32));
    if (owner !== null) await requireEscrowOf(tss, owner.ekName);
    const order = make({
      ekName: toHex(ek.name),
      login: () => (login.kind === "record" ? toHex(encodeLoginRecord(login.record)) : null),
      anchor: anchor.kind === "anchor" ? toHex(encodeAnchor(anchor.anchor)) : null,
      freeze: freeze.kind === "bits" ? freezeHex(freeze.bits) : null,
      boot: toHex(boot),
    });
    const signed = await verifyOrder(await signOrder(order, operator), operator.spkiPem);
    await carryOutOrder(tss, signed, {
      ...{ ekName: ek.name, boot, provision: async () => undefined },
      owner: owner === null ? null : { auth: owner.ownerAuth, saltKey: ek },
    });
    return order;
  });
}

/**
 * The owner's secret, for the endorsement key that the escrow file names and for nobody else: the machine's word only says which certificate
 * that key has.
 */
async function ownerCredential({ ekName, secret }: Owner, control: ControlClient): Promise<Record<string, string>> {
  const { ekCertificates, akName } = await control.endorsement();
  const keys = (Array.isArray(ekCertificates) ? ekCertificates : []).flatMap((der) => ekOf(String(der)));
  const ek = keys.find(({ name }) => toHex(name) === ekName);
  if (ek === undefined)
    throw new AgentError("ERR_ENVIRONMENT", "escrow", {
      expected: "the file of this machine",
      got: `that of ${ekName}`,
    });
  const credential = await makeCredential(parseTpmPublic(ek.tpmtPublic), fromHex(String(akName)), secret);
  const { credentialBlob, encryptedSecret } = credential;
  return { credentialBlob: toBase64(credentialBlob), encryptedSecret: toBase64(encryptedSecret) };
}

function ekOf(der: string): readonly EkPublic[] {
  try {
    return [openEkCertificate(fromBase64(der))];
  } catch {
    return []; // of a kind of key that no escrow file names
  }
}

/** @throws UsageError when there is nothing to order about */
export function requireRecord(what: string, record: string | null): string {
  if (record !== null) return record;
  throw new UsageError(what, { expected: "a record in the TPM", got: "none: there is nothing to allow" });
}
