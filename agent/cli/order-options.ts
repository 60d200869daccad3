import { toBase64, toHex } from "../../policy/index.ts";
import {
  carryOutOrder,
  encodeAnchor,
  encodeLoginRecord,
  type Order,
  openEndorsementKey,
  readAnchor,
  readLogin,
  signOrder,
  verifyOrder,
} from "../../seal/index.ts";
import { type CommandInput, type CommandOption, UsageError } from "./command.ts";
import { openMachine } from "./machine-ports.ts";
import { openSigningKey } from "./signing-key.ts";
import { TCTI_OPTION, withTpm } from "./tpm-options.ts";

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
  /** The running boot's nonce; null where no machine runs. */
  readonly boot: string | null;
}

/** Reads the present records, has the operator's key sign what `make` makes of them, and gives it to the machine or TPM. */
export async function giveOrder(input: CommandInput, make: (records: PresentRecords) => Order): Promise<Order> {
  const operator = await openSigningKey(input.text("operator"));
  return input.optional("machine") === undefined
    ? orderTpm(input, make, operator)
    : orderMachine(input, make, operator);
}

type Operator = Awaited<ReturnType<typeof openSigningKey>>;

async function orderMachine(
  input: CommandInput,
  make: (records: PresentRecords) => Order,
  operator: Operator,
): Promise<Order> {
  const control = await openMachine(input.text("machine"));
  try {
    const { ekName, logins, anchor, boot } = await control.sealing("records");
    const known =
      typeof logins === "object" && logins !== null ? new Map<string, unknown>(Object.entries(logins)) : new Map();
    const hex = (value: unknown) => (typeof value === "string" ? value : null);
    const order = make({
      ekName: String(ekName),
      login: (name) => hex(known.get(name)),
      anchor: hex(anchor),
      boot: hex(boot),
    });
    await control.sealing("order", { order: toBase64(await signOrder(order, operator)) });
    return order;
  } finally {
    control.close();
  }
}

function orderTpm(input: CommandInput, make: (records: PresentRecords) => Order, operator: Operator): Promise<Order> {
  return withTpm(input, async ({ tss }) => {
    await using ek = await openEndorsementKey(tss, input.choice("kind", ["p384", "rsa2048"]));
    const anchor = await readAnchor(tss);
    const name = input.optional("name") ?? "hsm-pin";
    const login = await readLogin(tss, name);
    const order = make({
      ekName: toHex(ek.name),
      login: () => (login.kind === "record" ? toHex(encodeLoginRecord(login.record)) : null),
      anchor: anchor.kind === "anchor" ? toHex(encodeAnchor(anchor.anchor)) : null,
      boot: null,
    });
    const signed = await verifyOrder(await signOrder(order, operator), operator.spkiPem);
    await carryOutOrder(tss, signed, { ekName: ek.name, boot: new Uint8Array(), provision: async () => undefined });
    return order;
  });
}

/** @throws UsageError when there is nothing to order about */
export function requireRecord(what: string, record: string | null): string {
  if (record !== null) return record;
  throw new UsageError(what, { expected: "a record in the TPM", got: "none: there is nothing to allow" });
}
