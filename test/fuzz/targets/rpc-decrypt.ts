import { mechanismName } from "../../../agent/broker/mechanisms.ts";
import { ArgumentReader, bytesOf } from "../../../agent/p11kit/codec.ts";
import { ByteReader, decide, parsePolicy } from "../../../policy/index.ts";
import { AMPLE } from "../../support/decision.ts";
import { documentBytes, policyDocument, SIGNER_EXE, SIGNER_UID } from "../../support/policy-document.ts";
import { expectTrue } from "../property.ts";

const document = policyDocument();
document.scopes.push({
  ...{ name: "vault", caller: "release-signer", key: "vault", audit: "written" },
  mechanisms: [{ type: "CKM_RSA_PKCS_OAEP", digest: "sha256", label: "c0de" }],
});
const policy = parsePolicy(documentBytes(document));
const modulus = new Uint8Array(256).fill(0xc0);

/** The first byte says the protocol version; then the arguments of C_DecryptInit with their length, and those of C_Decrypt. */
export function run(bytes: Uint8Array): void {
  const reader = new ByteReader(bytes, "two calls");
  const version = reader.u8("version") % 3;
  const init = new ArgumentReader(reader.sized16("C_DecryptInit", 4096), version);
  init.ulong("session");
  const request = init.mechanismAndKey();
  init.end();
  const call = new ArgumentReader(reader.bytes(reader.remaining, "C_Decrypt"), version);
  call.ulong("session");
  const ciphertext = bytesOf(call.byteArray("ciphertext"));
  call.room("plaintext");
  call.end();
  if (request.kind === "cancel" || ciphertext === null) return;
  const { parameters } = request;
  const { allow } = decide(policy, {
    ...AMPLE,
    caller: { uid: SIGNER_UID, exe: SIGNER_EXE, unit: null },
    ...{ scope: "vault", key: "vault", operation: "decrypt", parameters },
    mechanism: mechanismName(request.mechanism),
    input: { kind: "block", bytes: ciphertext, modulus },
  });
  const isRule =
    request.mechanism === 9n &&
    parameters.kind === "oaep" &&
    [parameters.hash, parameters.mgf, parameters.source].join() === "592,2,1" &&
    parameters.label.join() === "192,222";
  const isBlock = ciphertext.length === 256 && Buffer.compare(ciphertext, modulus) < 0;
  expectTrue(
    allow === (isRule && isBlock),
    "decryption: what is allowed is the rule's mechanism over a block below the modulus",
  );
}
