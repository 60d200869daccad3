import { mkdirSync } from "node:fs";
import pkcs11js from "pkcs11js";

// The token of Mozilla's NSS: a second PKCS#11 library that has nothing to do with SoftHSM. Its keys lie in an SQLite database.

const LIBRARY = "/usr/lib/x86_64-linux-gnu/libsoftokn3.so";
/** The slot of the database; the other one has no keys. */
export const NSS_LABEL = "NSS Certificate DB";
/** NSS gives every token the same one. */
export const NSS_SERIAL = "0000000000000000";
const PRIME256V1 = Buffer.from("06082a8648ce3d030107", "hex");

/** Makes a database in `directory` with a P-256 key that never leaves it, and gives its public half as SubjectPublicKeyInfo (DER). */
export function makeNssToken(directory: string, pin: string, label: string): Uint8Array {
  mkdirSync(directory, { recursive: true });
  const module = new pkcs11js.PKCS11();
  module.load(LIBRARY);
  const libraryParameters = `configdir='sql:${directory}' certPrefix='' keyPrefix='' secmod='secmod.db' flags=noModDB`;
  module.C_Initialize({ libraryParameters, flags: pkcs11js.CKF_OS_LOCKING_OK });
  try {
    const slot = module.C_GetSlotList(true).find((each) => module.C_GetTokenInfo(each).label.trim() === NSS_LABEL);
    if (slot === undefined) throw new Error("NSS: no database token");
    return makeKey(module, slot, pin, label);
  } finally {
    module.C_Finalize();
  }
}

function makeKey(module: pkcs11js.PKCS11, slot: Buffer, pin: string, label: string): Uint8Array {
  const session = module.C_OpenSession(slot, pkcs11js.CKF_SERIAL_SESSION | pkcs11js.CKF_RW_SESSION);
  module.C_Login(session, pkcs11js.CKU_SO, "");
  module.C_InitPIN(session, pin);
  module.C_Logout(session);
  module.C_Login(session, pkcs11js.CKU_USER, pin);
  const common = [
    { type: pkcs11js.CKA_TOKEN, value: true },
    { type: pkcs11js.CKA_LABEL, value: label },
    { type: pkcs11js.CKA_ID, value: Buffer.from([1]) },
  ];
  const { publicKey } = module.C_GenerateKeyPair(
    session,
    { mechanism: pkcs11js.CKM_EC_KEY_PAIR_GEN },
    [...common, { type: pkcs11js.CKA_VERIFY, value: true }, { type: pkcs11js.CKA_EC_PARAMS, value: PRIME256V1 }],
    [
      ...common,
      { type: pkcs11js.CKA_PRIVATE, value: true },
      { type: pkcs11js.CKA_SIGN, value: true },
      { type: pkcs11js.CKA_DERIVE, value: false },
      { type: pkcs11js.CKA_SENSITIVE, value: true },
      { type: pkcs11js.CKA_EXTRACTABLE, value: false },
    ],
  );
  const [point] = module.C_GetAttributeValue(session, publicKey, [{ type: pkcs11js.CKA_EC_POINT }]);
  const bytes = Buffer.isBuffer(point?.value) ? point.value : Buffer.alloc(0);
  // OCTET STRING of an uncompressed point, behind the header of a P-256 SubjectPublicKeyInfo
  const header = Buffer.from("3059301306072a8648ce3d020106082a8648ce3d030107034200", "hex");
  return new Uint8Array(Buffer.concat([header, bytes.subarray(bytes.length - 65)]));
}
