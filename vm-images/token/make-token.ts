// A program of its own, because SoftHSM reads its configuration from the environment of the process that loads it.
// Standard input: {"module", "label", "pin", "soPin"}; standard output: {"serial", "keys": {name: SPKI in base64}}.
// PIN and SO PIN arrive by the pipe only: never as an argument, in the environment or in a file.
import { createPublicKey } from "node:crypto";
import pkcs11js from "pkcs11js";

const P256_PARAMETERS = Buffer.from("06082a8648ce3d030107", "hex");
/** CK_TOKEN_INFO.label: padded with spaces, no NUL. */
const LABEL_BYTES = 32;
const RSA_EXPONENT = Buffer.from([1, 0, 1]);

interface TokenOrder {
  readonly module: string;
  readonly label: string;
  readonly pin: string;
  readonly soPin: string;
}

interface KeyPairOrder {
  readonly name: string;
  readonly mechanism: number;
  readonly publicTemplate: pkcs11js.Template;
}

const KEY_PAIRS: readonly KeyPairOrder[] = [
  {
    name: "release-ec",
    mechanism: pkcs11js.CKM_EC_KEY_PAIR_GEN,
    publicTemplate: [{ type: pkcs11js.CKA_EC_PARAMS, value: P256_PARAMETERS }],
  },
  {
    name: "document-rsa",
    mechanism: pkcs11js.CKM_RSA_PKCS_KEY_PAIR_GEN,
    publicTemplate: [
      { type: pkcs11js.CKA_MODULUS_BITS, value: 2048 },
      { type: pkcs11js.CKA_PUBLIC_EXPONENT, value: RSA_EXPONENT },
    ],
  },
];

function makeToken(order: TokenOrder): {
  serial: string;
  keys: Record<string, string>;
} {
  const module = new pkcs11js.PKCS11();
  module.load(order.module);
  module.C_Initialize();
  try {
    const free = module
      .C_GetSlotList(true)
      .find((candidate) => (module.C_GetTokenInfo(candidate).flags & pkcs11js.CKF_TOKEN_INITIALIZED) === 0);
    if (free === undefined) throw new Error("SoftHSM: expected a free slot, got none");
    module.C_InitToken(free, order.soPin, order.label.padEnd(LABEL_BYTES));
    // SoftHSM moves a token that was just initialised to a slot of its own.
    const slot = module
      .C_GetSlotList(true)
      .find((candidate) => module.C_GetTokenInfo(candidate).label.trim() === order.label);
    if (slot === undefined) throw new Error(`SoftHSM: expected a token labelled ${order.label}, got none`);
    setPin(module, slot, order);
    return {
      serial: module.C_GetTokenInfo(slot).serialNumber.trim(),
      keys: makeKeys(module, slot, order.pin),
    };
  } finally {
    module.C_Finalize();
  }
}

function setPin(module: pkcs11js.PKCS11, slot: Buffer, order: TokenOrder): void {
  const session = module.C_OpenSession(slot, pkcs11js.CKF_SERIAL_SESSION | pkcs11js.CKF_RW_SESSION);
  module.C_Login(session, pkcs11js.CKU_SO, order.soPin);
  module.C_InitPIN(session, order.pin);
  module.C_Logout(session);
  module.C_CloseSession(session);
}

function makeKeys(module: pkcs11js.PKCS11, slot: Buffer, pin: string): Record<string, string> {
  const session = module.C_OpenSession(slot, pkcs11js.CKF_SERIAL_SESSION | pkcs11js.CKF_RW_SESSION);
  module.C_Login(session, pkcs11js.CKU_USER, pin);
  return Object.fromEntries(
    KEY_PAIRS.map((order, index) => [order.name, makeKeyPair(module, session, order, index + 1)]),
  );
}

/** A key pair that signs and does nothing else, made inside the token: sensitive, never extractable. */
function makeKeyPair(module: pkcs11js.PKCS11, session: Buffer, order: KeyPairOrder, id: number): string {
  const common: pkcs11js.Template = [
    { type: pkcs11js.CKA_TOKEN, value: true },
    { type: pkcs11js.CKA_LABEL, value: order.name },
    { type: pkcs11js.CKA_ID, value: Buffer.from([id]) },
  ];
  const { publicKey } = module.C_GenerateKeyPair(
    session,
    { mechanism: order.mechanism },
    [
      ...common,
      ...order.publicTemplate,
      { type: pkcs11js.CKA_VERIFY, value: true },
      { type: pkcs11js.CKA_ENCRYPT, value: false },
      { type: pkcs11js.CKA_WRAP, value: false },
    ],
    [
      ...common,
      { type: pkcs11js.CKA_PRIVATE, value: true },
      { type: pkcs11js.CKA_SENSITIVE, value: true },
      { type: pkcs11js.CKA_EXTRACTABLE, value: false },
      { type: pkcs11js.CKA_SIGN, value: true },
      { type: pkcs11js.CKA_DECRYPT, value: false },
      { type: pkcs11js.CKA_UNWRAP, value: false },
      { type: pkcs11js.CKA_DERIVE, value: false },
    ],
  );
  return publicKeyInfo(module, session, publicKey, order.mechanism).toString("base64");
}

function publicKeyInfo(module: pkcs11js.PKCS11, session: Buffer, key: Buffer, mechanism: number): Buffer {
  const read = (type: number): Buffer => {
    const value = module.C_GetAttributeValue(session, key, [{ type }])[0]?.value;
    if (!Buffer.isBuffer(value)) throw new Error("SoftHSM: expected the public key's attribute, got none");
    return value;
  };
  const base64url = (bytes: Buffer) => bytes.toString("base64url");
  const jwk =
    mechanism === pkcs11js.CKM_EC_KEY_PAIR_GEN
      ? ecJwk(read(pkcs11js.CKA_EC_POINT))
      : {
          kty: "RSA",
          n: base64url(read(pkcs11js.CKA_MODULUS)),
          e: base64url(read(pkcs11js.CKA_PUBLIC_EXPONENT)),
        };
  return createPublicKey({ key: jwk, format: "jwk" }).export({
    type: "spki",
    format: "der",
  });
}

/** CKA_EC_POINT: a DER OCTET STRING of 65 bytes around 04 || x || y. */
function ecJwk(point: Buffer): {
  kty: string;
  crv: string;
  x: string;
  y: string;
} {
  return {
    kty: "EC",
    crv: "P-256",
    x: point.subarray(3, 35).toString("base64url"),
    y: point.subarray(35).toString("base64url"),
  };
}

async function main(): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  process.stdout.write(JSON.stringify(makeToken(JSON.parse(Buffer.concat(chunks).toString()))));
}

main().catch((error: unknown) => {
  process.stderr.write(`make-token: ${error instanceof Error ? error.message : "unknown failure"}\n`);
  process.exitCode = 4;
});
