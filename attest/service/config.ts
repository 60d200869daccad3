import * as z from "zod";
import { IronclawError, parseJson, utf8 } from "../../policy/index.ts";
import { defaultQuotePcrs } from "../index.ts";
import { ServiceError } from "./errors.ts";

const path = z
  .string()
  .min(1)
  .max(4096)
  .meta({ description: "Path; a relative one starts at the configuration's folder" });
const sha256 = z.string().regex(/^[0-9a-f]{64}$/, "expected SHA-256 in lower-case hexadecimal");
const count = (max: number) => z.int().min(1).max(max);

const listenSchema = z.union([
  z.strictObject({ host: z.string().min(1).max(253), port: z.int().min(0).max(65535) }),
  z.strictObject({ unix: path }),
]);

const tlsSchema = z.strictObject({
  certificate: path,
  key: path,
  /** Whose client certificates count; `null`: nobody's. */
  clientCa: path.nullable(),
});

const who = { name: z.string().regex(/^[\w.-]{1,64}$/), role: z.enum(["viewer", "operator"]) };
const credentialSchema = z.union([
  /** SHA-256 of a bearer token as it is sent. */
  z.strictObject({ ...who, tokenSha256: sha256 }),
  /** SHA-256 of a client certificate in DER. */
  z.strictObject({ ...who, certificateSha256: sha256 }),
  /** Common name of a client certificate under `clientCa`. */
  z.strictObject({ ...who, commonName: z.string().min(1).max(128) }),
]);
export type CredentialEntry = z.infer<typeof credentialSchema>;

const rateSchema = z.strictObject({ perMinute: count(1_000_000), burst: count(100_000) });

const configSchema = z.strictObject({
  version: z.literal(1),
  listen: listenSchema,
  /** Serve without TLS on an address that is not loopback: whoever is between reads the tokens. */
  plainTextBeyondLoopback: z.boolean(),
  tls: tlsSchema.nullable(),
  roles: z.array(credentialSchema).max(256),
  /** SQLite database. */
  store: path,
  /** Signs results: PEM, P-256, mode 0600. */
  signingKey: path,
  /** CAs of endorsement keys; `null`: nobody can be enrolled. */
  endorsementAnchors: path.nullable(),
  /** Whose releases count (`ironclaw keys anchors`); `null`: nobody's. */
  releaseAnchors: path.nullable(),
  /** Folder of signed releases, `*.json`. */
  references: path,
  /** Appraisal policy. */
  policy: path,
  challenge: z.strictObject({
    bank: z.enum(["sha256", "sha384"]),
    pcrs: z
      .array(z.int().min(0).max(23))
      .min(1)
      .refine((pcrs) => pcrs.every((pcr, at) => pcr > (pcrs[at - 1] ?? -1)), "expected ascending PCRs, each once"),
    ttlSeconds: count(3600),
    /** Open at a time for one machine and one peer. */
    perMachine: count(1000),
    perPeer: count(10_000),
    open: count(1_000_000),
  }),
  enrolment: z.strictObject({ ttlSeconds: count(3600), open: count(10_000), maxTokenSeconds: count(31_536_000) }),
  /** A machine that sent nothing for so long is silent. */
  intervalSeconds: count(31_536_000),
  /** For how long a signed result counts. */
  resultSeconds: count(86_400),
  retention: z.strictObject({
    reportsPerMachine: count(100_000),
    /** Of reports and their verdicts; the last one stays whatever its size. */
    bytesPerMachine: count(2 ** 40),
    /** Of the kinds that a stranger or the machine can make many of (`rejected`, `violation`), a tenth of this each, besides. */
    eventsPerMachine: count(100_000),
    days: count(36_500),
  }),
  limits: z.strictObject({
    perPeer: rateSchema,
    peers: count(1_000_000),
    connections: count(65_536),
    requestSeconds: count(600),
    workers: count(64),
    queue: count(10_000),
    judgeSeconds: count(600),
    drainSeconds: count(600),
  }),
});

/** What `verifier.json` says. Nothing has a default: `defaultConfig` is written out by `ironclaw verifier init`. */
export type VerifierConfig = z.infer<typeof configSchema>;

const maxConfig = 1 << 16;

/** Comments are not allowed. @throws ServiceError `ERR_SERVICE_CONFIG` */
export function parseVerifierConfig(bytes: Uint8Array): VerifierConfig {
  const parsed = configSchema.safeParse(parseDocument(bytes));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw malformed(`${issue?.path.join(".") || "document"}: ${(issue?.message ?? "malformed").toLowerCase()}`);
  }
  checkConfig(parsed.data);
  return parsed.data;
}

/** Byte for byte what `parseVerifierConfig` reads. */
export function encodeVerifierConfig(config: VerifierConfig): Uint8Array {
  return utf8(`${JSON.stringify(configSchema.parse(config), null, 2)}\n`);
}

/** JSON Schema of `verifier.json`. */
export function verifierConfigSchema(): object {
  return { title: "ironclaw verifier configuration", ...z.toJSONSchema(configSchema) };
}

function parseDocument(bytes: Uint8Array): unknown {
  try {
    return parseJson(bytes, "verifier configuration", { maxBytes: maxConfig, maxDepth: 6 });
  } catch (cause) {
    if (!(cause instanceof IronclawError)) throw cause;
    throw new ServiceError("ERR_SERVICE_CONFIG", cause.message, { cause });
  }
}

/** What goes together and what does not. @throws ServiceError `ERR_SERVICE_CONFIG` */
export function checkConfig({ listen, tls, roles, plainTextBeyondLoopback }: VerifierConfig): void {
  if ("host" in listen && !isLoopback(listen.host) && tls === null && !plainTextBeyondLoopback) {
    throw new ServiceError("ERR_SERVICE_CONFIG", "listen.host", {
      expected: "a loopback address, or TLS",
      got: listen.host,
      hint: "give tls, or say plainTextBeyondLoopback: true where something in front does TLS",
    });
  }
  if (tls?.clientCa == null && roles.some((entry) => !("tokenSha256" in entry)))
    throw malformed("roles: a client certificate counts only under tls.clientCa");
  const names = roles.map(({ name }) => name);
  if (new Set(names).size !== names.length) throw malformed("roles: each name once");
}

/** Whether only this machine's own programs can connect. A name other than `localhost` may be anywhere. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127(?:\.(?:\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])){3}$/.test(host);
}

/** A working configuration for one small fleet behind loopback. Paths are those that `ironclaw verifier init` fills. */
export const defaultConfig: VerifierConfig = {
  version: 1,
  listen: { host: "127.0.0.1", port: 8443 },
  plainTextBeyondLoopback: false,
  tls: null,
  roles: [],
  store: "verifier.db",
  signingKey: "signing.pem",
  endorsementAnchors: null,
  releaseAnchors: null,
  references: "references",
  policy: "appraisal.json",
  challenge: { bank: "sha256", pcrs: [...defaultQuotePcrs], ttlSeconds: 60, perMachine: 8, perPeer: 256, open: 65_536 },
  enrolment: { ttlSeconds: 120, open: 64, maxTokenSeconds: 604_800 },
  intervalSeconds: 300,
  resultSeconds: 600,
  retention: { reportsPerMachine: 200, bytesPerMachine: 256 << 20, eventsPerMachine: 1000, days: 90 },
  limits: {
    perPeer: { perMinute: 1200, burst: 240 },
    peers: 10_000,
    connections: 512,
    requestSeconds: 30,
    workers: 2,
    queue: 64,
    judgeSeconds: 20,
    drainSeconds: 15,
  },
};

function malformed(what: string): ServiceError {
  return new ServiceError("ERR_SERVICE_CONFIG", `verifier configuration ${what}`);
}
