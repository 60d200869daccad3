// A process that loads one PKCS #11 library and does what its parent asks over IPC. Messages: {id, op, ...} and {id, value} or {id, error, rv}.
import { loadPkcs11Js } from "./pkcs11-native.ts";

const CKA = {
  CLASS: 0,
  TOKEN: 1,
  PRIVATE: 2,
  LABEL: 3,
  VALUE: 0x11,
  KEY_TYPE: 0x100,
  ID: 0x102,
  SENSITIVE: 0x103,
  ENCRYPT: 0x104,
  DECRYPT: 0x105,
  SIGN: 0x108,
};
const CKA_VERIFY = 0x10a;
const CKA_MODULUS = 0x120;
const CKA_MODULUS_BITS = 0x121;
const CKA_PUBLIC_EXPONENT = 0x122;
const CKA_EXTRACTABLE = 0x162;
const CKA_EC_PARAMS = 0x180;
const CKA_EC_POINT = 0x181;
const P256 = Buffer.from("06082a8648ce3d030107", "hex");

const { PKCS11 } = await loadPkcs11Js();
const library = new PKCS11();
let session: Buffer = Buffer.alloc(0);

type Message = Record<string, unknown> & { id: number; op: string };

/** Makes a token with two signing keys and one that decrypts, and stays logged in. */
function setup(path: string, label: string, pin: string): unknown {
  library.load(path);
  library.C_Initialize();
  const free = library.C_GetSlotList(true)[0];
  if (free === undefined) throw new Error("no slot");
  library.C_InitToken(free, pin, label.padEnd(32));
  const slot = library
    .C_GetSlotList(true)
    .find((candidate) => library.C_GetTokenInfo(candidate).label.trim() === label);
  if (slot === undefined) throw new Error("no token");
  session = library.C_OpenSession(slot, 6);
  library.C_Login(session, 0, pin);
  library.C_InitPIN(session, pin);
  library.C_Logout(session);
  library.C_Login(session, 1, pin);
  const privateTemplate = (name: string, keyId: number, use = CKA.SIGN) => [
    { type: CKA.TOKEN, value: true },
    { type: CKA.PRIVATE, value: true },
    { type: CKA.LABEL, value: name },
    { type: CKA.ID, value: Buffer.from([keyId]) },
    { type: CKA.SENSITIVE, value: true },
    { type: CKA_EXTRACTABLE, value: false },
    { type: CKA.SIGN, value: use === CKA.SIGN },
    { type: CKA.DECRYPT, value: use === CKA.DECRYPT },
  ];
  const publicTemplate = (name: string, keyId: number, use = CKA_VERIFY) => [
    { type: CKA.TOKEN, value: true },
    { type: CKA.LABEL, value: name },
    { type: CKA.ID, value: Buffer.from([keyId]) },
    { type: use, value: true },
  ];
  const rsaTemplate = [
    { type: CKA_MODULUS_BITS, value: 2048 },
    { type: CKA_PUBLIC_EXPONENT, value: Buffer.from([1, 0, 1]) },
  ];
  const ec = library.C_GenerateKeyPair(
    session,
    { mechanism: 0x1040 },
    [...publicTemplate("release-ec", 1), { type: CKA_EC_PARAMS, value: P256 }],
    privateTemplate("release-ec", 1),
  );
  const rsa = library.C_GenerateKeyPair(
    session,
    { mechanism: 0 },
    [...publicTemplate("release-rsa", 2), ...rsaTemplate],
    privateTemplate("release-rsa", 2),
  );
  const vault = library.C_GenerateKeyPair(
    session,
    { mechanism: 0 },
    [...publicTemplate("vault", 0x2a, CKA.ENCRYPT), ...rsaTemplate],
    privateTemplate("vault", 0x2a, CKA.DECRYPT),
  );
  const rsaNumbers = ({ publicKey }: { publicKey: Buffer }) => ({
    modulus: attribute(publicKey, CKA_MODULUS),
    exponent: attribute(publicKey, CKA_PUBLIC_EXPONENT),
  });
  return {
    serial: library.C_GetTokenInfo(slot).serialNumber,
    ecPoint: attribute(ec.publicKey, CKA_EC_POINT),
    rsa: rsaNumbers(rsa),
    vault: rsaNumbers(vault),
  };
}

function attach(path: string): void {
  library.load(path);
  // p11-kit-client.so takes initialisation arguments only with CKF_OS_LOCKING_OK, and pkcs11js always gives some.
  library.C_Initialize({ flags: 2 });
  const [slot] = library.C_GetSlotList(true);
  if (slot === undefined) throw new Error("no slot");
  session = library.C_OpenSession(slot, 4);
}

function find(template: { type: number; value: number | string }[]): Buffer[] {
  library.C_FindObjectsInit(session, template);
  try {
    return library.C_FindObjects(session, 100);
  } finally {
    library.C_FindObjectsFinal(session);
  }
}

function attribute(object: Buffer, type: number): string {
  const [found] = library.C_GetAttributeValue(session, object, [{ type }]);
  return Buffer.from(found?.value as Buffer).toString("hex");
}

function keyOf(label: unknown, kind: number): Buffer {
  const [key] = find([
    { type: CKA.CLASS, value: kind },
    { type: CKA.LABEL, value: String(label) },
  ]);
  if (key === undefined) throw new Error(`no key ${label}`);
  return key;
}

function sign(message: Message): unknown {
  const parameter = message["pss"] as { type: number; hashAlg: number; mgf: number; saltLen: number } | undefined;
  const mechanism = Number(message["mechanism"]);
  library.C_SignInit(
    session,
    parameter === undefined ? { mechanism } : { mechanism, parameter },
    keyOf(message["label"], 3),
  );
  return library.C_Sign(session, Buffer.from(String(message["data"]), "hex"), Buffer.alloc(1024)).toString("hex");
}

function decrypt(message: Message): unknown {
  const parameter = message["oaep"] as { type: number; hashAlg: number; mgf: number; source: number } | undefined;
  const mechanism = Number(message["mechanism"]);
  library.C_DecryptInit(
    session,
    parameter === undefined ? { mechanism } : { mechanism, parameter },
    keyOf(message["label"], 3),
  );
  const room = Buffer.alloc(Number(message["room"] ?? 1024));
  return library.C_Decrypt(session, Buffer.from(String(message["data"]), "hex"), room).toString("hex");
}

/** C_UnwrapKey, and the label of the object that came of it. */
function unwrap(message: Message): unknown {
  const mechanism = Number(message["mechanism"]);
  const parameter = message["oaep"] as { type: number; hashAlg: number; mgf: number; source: number };
  const template = message["template"] as { type: number; value: number | string | boolean }[];
  const wrapped = Buffer.from(String(message["data"]), "hex");
  const key = library.C_UnwrapKey(session, { mechanism, parameter }, keyOf(message["label"], 3), wrapped, template);
  return Buffer.from(attribute(key, CKA.LABEL), "hex").toString();
}

/** What a caller could try against a key; the codes that came back. */
function attack(label: unknown): unknown {
  const key = keyOf(label, 3);
  const attempts: Record<string, () => unknown> = {
    C_WrapKey: () => library.C_WrapKey(session, { mechanism: 0x1 }, key, key, Buffer.alloc(4096)),
    C_CreateObject: () => library.C_CreateObject(session, [{ type: CKA.CLASS, value: 0 }]),
    C_CopyObject: () => library.C_CopyObject(session, key, [{ type: CKA_EXTRACTABLE, value: true }]),
    C_DestroyObject: () => library.C_DestroyObject(session, key),
    C_SetAttributeValue: () => library.C_SetAttributeValue(session, key, [{ type: CKA_EXTRACTABLE, value: true }]),
    C_GenerateKeyPair: () => library.C_GenerateKeyPair(session, { mechanism: 0x1040 }, [], []),
    C_UnwrapKey: () => library.C_UnwrapKey(session, { mechanism: 0x1 }, key, Buffer.alloc(256), []),
    C_EncryptInit: () => library.C_EncryptInit(session, { mechanism: 0x1 }, key),
    C_GenerateKey: () => library.C_GenerateKey(session, { mechanism: 0x350 }, []),
    C_VerifyInit: () => library.C_VerifyInit(session, { mechanism: 0x1 }, key),
    C_InitPIN: () => library.C_InitPIN(session, "1234"),
    C_SeedRandom: () => library.C_SeedRandom(session, Buffer.alloc(8)),
    C_DeriveKey: () => library.C_DeriveKey(session, { mechanism: 0x1 }, key, []),
    C_SetPIN: () => library.C_SetPIN(session, "1234", "5678"),
    value: () => attribute(key, CKA.VALUE),
    privateExponent: () => attribute(key, 0x123),
  };
  return Object.fromEntries(Object.entries(attempts).map(([name, attempt]) => [name, codeOf(attempt)]));
}

function codeOf(attempt: () => unknown): unknown {
  try {
    attempt();
    return 0;
  } catch (error) {
    // Three of pkcs11js' functions have the code in their message only.
    return (error as { code?: unknown }).code ?? Number(/:(\d+)$/.exec(String(error))?.[1]);
  }
}

function answer(message: Message): unknown {
  switch (message.op) {
    case "setup":
      return setup(String(message["library"]), String(message["label"]), String(message["pin"]));
    case "attach":
      return attach(String(message["library"]));
    case "labels":
      return find([]).map((object) => Buffer.from(attribute(object, CKA.LABEL), "hex").toString());
    case "attribute":
      return attribute(keyOf(message["label"], Number(message["class"])), Number(message["type"]));
    case "sign":
      return sign(message);
    case "decrypt":
      return decrypt(message);
    case "unwrap":
      return unwrap(message);
    case "attack":
      return attack(message["label"]);
    case "login":
      return library.C_Login(session, 1, "not the PIN");
    default:
      throw new Error(`unknown operation ${message.op}`);
  }
}

process.on("message", (message: Message) => {
  try {
    process.send?.({ id: message.id, value: answer(message) ?? null });
  } catch (error) {
    process.send?.({ id: message.id, error: (error as Error).message, rv: (error as { code?: number }).code ?? null });
  }
});
process.on("disconnect", () => process.exit(0));
