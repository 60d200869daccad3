import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { request } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { openVerifierClient } from "../../../attest/service/index.ts";
import { type Operation, operations } from "../../../attest/service/operations.ts";
import { anonymous, identify, mayAct, roles } from "../../../attest/service/roles.ts";
import { EXTENSIONS, type MadeCertificate, makeCertificate } from "../../support/certificates.ts";
import { OPERATOR, openVerifierBench, VIEWER } from "../../support/verifier-fixture.ts";

const digest = (bytes: string | Uint8Array) => createHash("sha256").update(bytes).digest("hex");
const entries = [
  { name: "vera", role: "viewer", tokenSha256: digest(VIEWER) },
  { name: "otto", role: "operator", tokenSha256: digest(OPERATOR) },
  { name: "carl", role: "viewer", commonName: "carl" },
] as const;
const show = (authorization: string | undefined) => identify(entries, { authorization, certificate: null });

describe("a credential", () => {
  test("names its holder and role; none is nobody, and a wrong one is refused", () => {
    expect(show(`Bearer ${VIEWER}`)).toEqual({ role: "viewer", name: "vera" });
    expect(show(`bearer ${OPERATOR}`)).toEqual({ role: "operator", name: "otto" });
    expect(show(undefined)).toEqual(anonymous);
    for (const text of ["", "Bearer ", `Basic ${VIEWER}`, `Bearer ${VIEWER}x`, `Bearer  ${VIEWER}`, `${VIEWER}`])
      expect(show(text), text).toBeNull();
  });

  test("that was made up is nobody's", () => {
    fc.assert(fc.property(fc.string({ maxLength: 300 }), (text) => show(`Bearer ${text}`) === null));
  });

  test("a role may do what is below it and nothing above", () => {
    for (const [at, held] of roles.entries())
      expect(roles.filter((needed) => mayAct(held, needed))).toEqual(roles.slice(0, at + 1));
  });

  test("of a certificate that no pinned CA signed is refused, whatever it calls itself", () => {
    const certificate = { der: new Uint8Array(4), commonName: "carl" };
    expect(
      identify(entries, { authorization: undefined, certificate: { ...certificate, authorized: false } }),
    ).toBeNull();
    expect(identify(entries, { authorization: undefined, certificate: { ...certificate, authorized: true } })).toEqual({
      role: "viewer",
      name: "carl",
    });
    expect(
      identify(entries, {
        authorization: undefined,
        certificate: { ...certificate, commonName: "mallory", authorized: true },
      }),
    ).toBeNull();
  });
});

test("each operation is for the roles that the table says, and for no other", async () => {
  await using bench = await openVerifierBench();
  const credentials = { none: undefined, viewer: VIEWER, operator: OPERATOR } as const;
  for (const [id, operation] of Object.entries<Operation>(operations)) {
    const url = operation.path.replace("{name}", "m1").replace("{id}", "1");
    for (const [role, token] of Object.entries(credentials) as [(typeof roles)[number], string | undefined][]) {
      const { status } = await bench.ask(operation.method, url, token === undefined ? {} : { token });
      if (mayAct(role, operation.role)) expect([401, 403], `${id} ${role}`).not.toContain(status);
      else expect(status, `${id} ${role}`).toBe(role === "none" ? 401 : 403);
    }
  }
});

test("no credential, nonce, secret or id of an enrolment is ever in the log", async () => {
  await using bench = await openVerifierBench();
  const secrets: string[] = [VIEWER, OPERATOR];
  const made = await bench.ask("POST", "/v1/enrolment-tokens", {
    token: OPERATOR,
    body: { name: "m1", ttlSeconds: 60 },
  });
  secrets.push(made.body.token);
  const tpm = await bench.authority.makeTpm();
  const certificate = Buffer.from(tpm.ekCertificate).toString("base64");
  const akPublic = Buffer.from(tpm.ak.publicArea).toString("base64");
  const begun = await bench.ask("POST", "/v1/enrolments", {
    body: { token: made.body.token, name: "m1", ekCertificates: [certificate], akPublic },
  });
  const { enrolment, credentialBlob, encryptedSecret } = begun.body;
  const secret = tpm.activate(Buffer.from(credentialBlob, "base64"), Buffer.from(encryptedSecret, "base64"));
  secrets.push(enrolment, Buffer.from(secret).toString("base64"));
  await bench.ask("POST", `/v1/enrolments/${enrolment}`, { body: { secret: Buffer.from(secret).toString("base64") } });
  await bench.ask("POST", `/v1/enrolments/${enrolment}`, { body: { secret: Buffer.from(secret).toString("base64") } });
  const challenge = await bench.challenge("m1");
  const nonce = Buffer.from(challenge.nonce);
  secrets.push(nonce.toString("base64"), nonce.toString("hex"));
  await bench.send(challenge, await bench.report(tpm, challenge));
  await bench.send(challenge, new Uint8Array(3), VIEWER);
  const log = bench.lines.join("");
  expect(log).toContain('"operation":"judgeEvidence"');
  for (const word of secrets) expect(log.includes(word)).toBe(false);
  for (const line of bench.lines) expect(() => JSON.parse(line)).not.toThrow();
});

describe("over TLS", () => {
  interface Hello {
    readonly certificate?: MadeCertificate;
    readonly token?: string;
  }

  test("a client certificate counts under the pinned CA, by digest or common name; machines need none", async () => {
    const ca = makeCertificate({ subject: "/CN=people", extensions: EXTENSIONS.lastAuthority, issuer: null });
    const server = makeCertificate({
      subject: "/CN=localhost",
      extensions: "subjectAltName=DNS:localhost",
      issuer: ca,
    });
    const client = (name: string, issuer: MadeCertificate | null) =>
      makeCertificate({ subject: `/CN=${name}`, extensions: "extendedKeyUsage=clientAuth", issuer });
    const [pinned, named, stranger, liar] = [
      client("olga", ca),
      client("carl", ca),
      client("eve", ca),
      client("carl", null),
    ];
    await using bench = await openVerifierBench({
      config: (config) => ({
        ...config,
        roles: [
          ...config.roles,
          { name: "olga", role: "operator", certificateSha256: digest(pinned.der) },
          { name: "carl", role: "viewer", commonName: "carl" },
        ],
        tls: { certificate: "tls.pem", key: "tls.key", clientCa: "people.pem" },
      }),
      layOut: (folder) => {
        writeFileSync(join(folder, "tls.pem"), server.pem);
        writeFileSync(join(folder, "tls.key"), server.keyPem);
        writeFileSync(join(folder, "people.pem"), ca.pem);
      },
    });
    await bench.service.listen();
    const { port } = bench.service.app.server.address() as AddressInfo;
    const get = (path: string, { certificate, token }: Hello) =>
      new Promise<{ status: number; headers: Record<string, unknown> }>((settle, reject) => {
        const keys = certificate === undefined ? {} : { cert: certificate.pem, key: certificate.keyPem };
        const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
        request(
          { host: "127.0.0.1", port, path, ca: ca.pem, servername: "localhost", headers, agent: false, ...keys },
          (response) => {
            response.resume();
            settle({ status: response.statusCode ?? 0, headers: response.headers });
          },
        )
          .on("error", reject)
          .end();
      });
    const statuses = async (path: string, hellos: readonly Hello[]) => {
      const found: number[] = [];
      for (const hello of hellos) found.push((await get(path, hello)).status);
      return found;
    };
    expect(
      await statuses("/v1/machines", [{ certificate: pinned }, { certificate: named }, { token: VIEWER }]),
    ).toEqual([200, 200, 200]);
    expect(await statuses("/v1/machines", [{ certificate: stranger }, { certificate: liar }, {}])).toEqual([
      401, 401, 401,
    ]);
    expect(await statuses("/v1/keys", [{}, { certificate: named }, { certificate: liar }])).toEqual([200, 200, 401]);
    const serviceUnder = (trusted: MadeCertificate) =>
      openVerifierClient({ to: `https://localhost:${port}`, ca: Buffer.from(trusted.pem) });
    expect((await serviceUnder(ca).challenge("m1")).nonce).toHaveLength(32);
    await expect(serviceUnder(liar).challenge("m1")).rejects.toMatchObject({ code: "ERR_SERVICE_UNREACHABLE" });
    expect((await get("/v1/keys", {})).headers["strict-transport-security"]).toBeDefined();
  });
});
