import pkcs11js from "pkcs11js";

/** The stock client module: the workload has no code of this project between itself and the agent. */
export const CLIENT_MODULE = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so";

export interface SignRequest {
  readonly label: string;
  readonly mechanism: "CKM_ECDSA" | "CKM_SHA256_RSA_PKCS" | "CKM_RSA_PKCS";
  readonly data: Uint8Array;
}

/** Sign through whatever scope P11_KIT_SERVER_ADDRESS names. No PIN: the agent logged in, the workload never does. */
export function signThroughScope(request: SignRequest): Uint8Array {
  const module = new pkcs11js.PKCS11();
  module.load(CLIENT_MODULE);
  module.C_Initialize({ flags: pkcs11js.CKF_OS_LOCKING_OK });
  try {
    const slot = module.C_GetSlotList(true)[0];
    if (slot === undefined) throw new Error("no token: is the agent serving this scope?");
    const session = module.C_OpenSession(slot, pkcs11js.CKF_SERIAL_SESSION);
    const key = findPrivateKey(module, session, request.label);
    module.C_SignInit(session, { mechanism: pkcs11js[request.mechanism] }, key);
    return new Uint8Array(module.C_Sign(session, Buffer.from(request.data), Buffer.alloc(512)));
  } finally {
    module.C_Finalize();
  }
}

function findPrivateKey(module: pkcs11js.PKCS11, session: Buffer, label: string): Buffer {
  module.C_FindObjectsInit(session, [
    { type: pkcs11js.CKA_CLASS, value: pkcs11js.CKO_PRIVATE_KEY },
    { type: pkcs11js.CKA_LABEL, value: label },
  ]);
  const found = module.C_FindObjects(session, 2);
  module.C_FindObjectsFinal(session);
  const [key] = found;
  if (key === undefined || found.length !== 1) throw new Error(`private key ${label}: expected 1, got ${found.length}`);
  return key;
}
