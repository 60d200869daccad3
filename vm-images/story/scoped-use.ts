import { createHash, createPublicKey, randomBytes, verify } from "node:crypto";
import { ImageError } from "../errors.ts";
import type { Answer } from "../line-client.ts";
import type { DemoToken } from "../token/token.ts";
import { INTRUDER_UID, SCOPED_UID } from "./demo-policy.ts";
import { answerOf, signatureOf, signingFrames } from "./frames.ts";
import type { RunningMachine } from "./running.ts";

export interface SignatureProof {
  readonly client: string;
  readonly key: string;
  readonly verified: boolean;
}

/** What signing through the scopes showed; every signature is checked here, on the host, with the token's public keys. */
export interface ScopedUse {
  readonly nonce: string;
  readonly signatures: readonly SignatureProof[];
  readonly objectList: string;
  readonly deniedCaller: {
    readonly denied: boolean;
    readonly rv: string;
    readonly auditSeq: number;
    readonly sameBytesSucceedFor: number;
  };
}

/** Sign a nonce that did not exist before the boot, with three stock clients, our own and recorded bytes; then be refused. */
export async function useScopes(machine: RunningMachine, token: DemoToken): Promise<ScopedUse> {
  const nonce = randomBytes(32);
  const digest = createHash("sha256").update(nonce).digest();
  const signer = await machine.workload(SCOPED_UID);
  const intruder = await machine.workload(INTRUDER_UID);
  try {
    const data = nonce.toString("hex");
    const ec = { scope: "release-signing", label: "release-ec" };
    const rsa = { scope: "document-signing", label: "document-rsa" };
    const list = await signer.request("pkcs11-tool-list", ec);
    const signatures = [
      checked(
        "pkcs11js",
        token,
        "release-ec",
        nonce,
        await signer.request("sign", { ...ec, mechanism: "CKM_ECDSA", data: digest.toString("hex") }),
      ),
      checked(
        "pkcs11-tool",
        token,
        "release-ec",
        nonce,
        await signer.request("pkcs11-tool-sign", { ...ec, mechanism: "ECDSA", data: digest.toString("hex") }),
      ),
      checked(
        "pkcs11js",
        token,
        "document-rsa",
        nonce,
        await signer.request("sign", { ...rsa, mechanism: "CKM_SHA256_RSA_PKCS", data }),
      ),
      checked("openssl engine", token, "document-rsa", nonce, await signer.request("openssl-sign", { ...rsa, data })),
      checked(
        "native client",
        token,
        "release-ec",
        nonce,
        await signer.request("native-sign", { ...ec, mechanism: "CKM_ECDSA", digest: digest.toString("hex") }),
      ),
    ];
    return {
      nonce: data,
      signatures,
      objectList: typeof list["output"] === "string" ? list["output"] : "",
      deniedCaller: await replayAsBoth(machine, { signer, intruder }, token, nonce),
    };
  } finally {
    signer.close();
    intruder.close();
  }
}

type Clients = { readonly signer: Requester; readonly intruder: Requester };
type Requester = { request(op: string, fields?: Answer): Promise<Answer> };

/** The same recorded bytes from both uids: refused to one, with an audit record, and a good signature to the other. */
async function replayAsBoth(
  machine: RunningMachine,
  { signer, intruder }: Clients,
  token: DemoToken,
  nonce: Buffer,
): Promise<ScopedUse["deniedCaller"]> {
  const digest = createHash("sha256").update(nonce).digest();
  const frames = signingFrames(digest, { slot: 1n, session: 1n, privateKey: 1n }).map((frame) =>
    Buffer.from(frame).toString("hex"),
  );
  const before = await auditRecords(machine);
  const refused = answersOf(await intruder.request("replay", { scope: "release-signing", frames }));
  const served = answersOf(await signer.request("replay", { scope: "release-signing", frames }));
  const record = (await auditRecords(machine))
    .slice(before.length)
    .find((entry) => entry["decision"] === "deny" && (entry["caller"] as Answer | null)?.["uid"] === INTRUDER_UID);
  const signature = signatureOf(served.at(-1) ?? new Uint8Array());
  const succeeded = signature !== null && verifySignature(token, "release-ec", nonce, signature);
  // The first answer is the version byte; of the calls after it, every single one has to be an error.
  const calls = refused.slice(1).map(answerOf);
  return {
    denied: calls.length > 0 && calls.every(({ call, rv }) => call === 0 && rv !== 0n) && record !== undefined,
    rv: `0x${(calls[0]?.rv ?? 0n).toString(16)}`,
    auditSeq: typeof record?.["seq"] === "number" ? record["seq"] : 0,
    sameBytesSucceedFor: succeeded ? SCOPED_UID : 0,
  };
}

async function auditRecords(machine: RunningMachine): Promise<readonly Answer[]> {
  const { records } = await machine.control.audit(1, 500);
  return Array.isArray(records) ? records : [];
}

function answersOf(answer: Answer): Uint8Array[] {
  const answers = answer["answers"];
  if (!Array.isArray(answers))
    throw new ImageError("ERR_VM_CONTROL", "replay", { expected: "answers", got: typeof answers });
  return answers.map((text) => new Uint8Array(Buffer.from(String(text), "hex")));
}

function checked(client: string, token: DemoToken, key: string, nonce: Buffer, answer: Answer): SignatureProof {
  const signature = new Uint8Array(Buffer.from(String(answer["signature"]), "hex"));
  return { client, key, verified: verifySignature(token, key, nonce, signature) };
}

/** PKCS#11 clients give r || s, `openssl` DER: both are tried for an EC key, and one has to be the nonce's signature. */
function verifySignature(token: DemoToken, key: string, nonce: Uint8Array, signature: Uint8Array): boolean {
  const spki = token.keys[key];
  if (spki === undefined) return false;
  const publicKey = createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" });
  if (publicKey.asymmetricKeyType === "rsa") return verify("sha256", nonce, publicKey, signature);
  return verify("sha256", nonce, { key: publicKey, dsaEncoding: "ieee-p1363" }, signature);
}
