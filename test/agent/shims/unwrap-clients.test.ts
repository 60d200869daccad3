import { randomBytes } from "node:crypto";
import { dirname } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { connect, type Session } from "../../../agent/client/index.ts";
import { sha256Hex, toHex } from "../../../policy/index.ts";
import { startPkcs11 } from "../../support/pkcs11-process.ts";
import { DIGEST, openUnwrapLab, type UnwrapBench, type UnwrapLab } from "../../support/unwrap-bench.ts";

// A key that arrives, by the clients that programs have: the native one, and a PKCS #11 application on p11-kit's own module.
const CLIENT = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so";
const [CLASS, KEY_TYPE, EXTRACTABLE, SIGN, DECRYPT] = [0x0, 0x100, 0x162, 0x108, 0x105];
const CKR = { template: 0xd1, wrappedInvalid: 0x110 } as const;

let lab: UnwrapLab;
let bench: UnwrapBench;
beforeAll(async () => {
  lab = await openUnwrapLab();
});
afterAll(() => lab.close());
beforeEach(async () => {
  bench = await lab.open();
  await bench.start();
});
afterEach(() => lab.end());

async function withSession<T>(scope: string, use: (session: Session) => Promise<T>): Promise<T> {
  await using client = await connect({ scope, directory: dirname(bench.broker.socket(scope)) });
  await using session = client.session();
  return await use(session);
}

const refusalOf = (asked: Promise<unknown>) =>
  asked.then(
    () => "done",
    (error: { readonly reason?: string }) => error.reason,
  );
const unwraps = () =>
  bench.broker.records().flatMap(({ operation, decision, step }) => (operation === "unwrap" ? [step ?? decision] : []));
const signs = (session: Session) => session.sign({ key: "restored", mechanism: "CKM_ECDSA", digest: DIGEST });

test("I7 I8: by the native client only the policy's blob comes in, as the key that the policy says, and another scope signs with it", async () => {
  const arriving = (session: Session, blob: Uint8Array, name = "restored") =>
    session.unwrap({ mechanism: "CKM_RSA_PKCS_OAEP", arriving: name, blob });
  await withSession("restore", async (session) => {
    expect(await refusalOf(arriving(session, bench.foreign()))).toBe("malformed-input");
    expect(await refusalOf(arriving(session, Uint8Array.from(randomBytes(bench.wrapped.length))))).toBe(
      "malformed-input",
    );
    expect(await refusalOf(arriving(session, bench.wrapped, "another"))).toBe("malformed-input");
    expect(await refusalOf(withSession("restored", signs))).toBe("not-allowed");
    expect(unwraps()).toEqual(["parameters", "parameters", "parameters"]);
    expect(await arriving(session, bench.wrapped)).toBeUndefined();
    expect(await refusalOf(signs(session))).toBe("not-allowed");
  });
  expect(bench.isSigners(await withSession("restored", signs))).toBe(true);
  const [record] = bench.broker.records().filter(({ decision }) => decision === "allow");
  expect(record).toMatchObject({ operation: "unwrap", inputDigest: `sha256:${sha256Hex(bench.wrapped)}` });
});

test("I7 I8: by a PKCS #11 application on p11-kit-client.so, with the template that such applications send", async () => {
  const client = startPkcs11({ P11_KIT_SERVER_ADDRESS: `unix:path=${bench.broker.socket("restore")}` });
  try {
    await client.call("attach", { library: CLIENT });
    const template = [
      { type: CLASS, value: 3 },
      { type: KEY_TYPE, value: 3 },
      { type: SIGN, value: true },
      { type: EXTRACTABLE, value: false },
    ];
    const oaep = { type: 4, hashAlg: 0x220, mgf: 1, source: 1 };
    const unwrap = (blob: Uint8Array, more: readonly object[] = []) =>
      client.call("unwrap", {
        ...{ label: "rsa", mechanism: 9, oaep, data: toHex(blob), template: [...template, ...more] },
      });
    await expect(unwrap(bench.foreign())).rejects.toMatchObject({ rv: CKR.wrappedInvalid });
    await expect(unwrap(bench.wrapped, [{ type: DECRYPT, value: true }])).rejects.toMatchObject({ rv: CKR.template });
    expect(await unwrap(bench.wrapped)).toBe(`restored ${sha256Hex(bench.wrapped).slice(0, 8)}`);
  } finally {
    await client.close();
  }
  expect(unwraps()).toEqual(["parameters", "parameters", "allow"]);
  expect(bench.isSigners(await withSession("restored", signs))).toBe(true);
});
