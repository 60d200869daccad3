import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import * as z from "zod";
import { type RefusalCode, refusals } from "../../../attest/service/errors.ts";
import { openApiDocument } from "../../../attest/service/index.ts";
import { type Operation, type OperationId, operations, refusalsOf } from "../../../attest/service/operations.ts";
import { publishedFiles } from "../../../attest/service/published.ts";
import type { SoftTpm } from "../../support/soft-tpm.ts";
import {
  type Answer,
  base64,
  bearer,
  beginOver,
  enrolmentToken,
  finishOver,
  OPERATOR,
  openVerifierBench,
  type VerifierBench,
  VIEWER,
} from "../../support/verifier-fixture.ts";

const folder = resolve(import.meta.dirname, "../../../attest/service");

interface Documented {
  readonly paths: Record<
    string,
    Record<
      string,
      { operationId: string; responses: Record<string, { content?: Record<string, { schema?: object }> }> }
    >
  >;
  readonly components: { readonly schemas: Record<string, object> };
}
const document = openApiDocument() as Documented;

/** The document's own word on an answer: its statuses, media types and schemas, read as another program would. */
function expectDocumented(id: OperationId, answer: Answer): void {
  const { method, path } = operations[id];
  const described = document.paths[path]?.[method.toLowerCase()];
  expect(described?.operationId).toBe(id);
  const response = described?.responses[`${answer.status}`];
  expect(response, `${id} answers ${answer.status} ${answer.text.slice(0, 200)}`).toBeDefined();
  const type = `${answer.headers["content-type"] ?? ""}`.split(";")[0] ?? "";
  if (response?.content === undefined) {
    expect(answer.text).toBe("");
    return;
  }
  expect(Object.keys(response.content), `${id} ${answer.status}`).toContain(type);
  const schema = response.content[type]?.schema;
  if (schema === undefined) return;
  const whole = { ...resolved(schema) } as Parameters<typeof z.fromJSONSchema>[0];
  const parsed = z.fromJSONSchema(whole).safeParse(answer.body);
  expect(parsed.error?.issues ?? [], `${id} ${answer.status}`).toEqual([]);
}

function resolved(schema: object): object {
  const reference = "$ref" in schema ? `${schema.$ref}` : null;
  const name = reference?.replace("#/components/schemas/", "");
  return name === undefined ? schema : (document.components.schemas[name] ?? {});
}

let bench: VerifierBench;
let tpm: SoftTpm;
beforeAll(async () => {
  bench = await openVerifierBench();
  tpm = await bench.enrol("m1");
  await bench.attest("m1", tpm);
});
afterAll(() => bench[Symbol.asyncDispose]());

async function pathOf(id: OperationId): Promise<string> {
  const lastReport = (await bench.ask("GET", "/v1/machines/m1", { token: VIEWER })).body.lastReport;
  const { path } = operations[id];
  return path
    .replace("{name}", "m1")
    .replace("/{id}", path.startsWith("/v1/enrolments") ? `/${"A".repeat(43)}` : `/${lastReport}`);
}

/** The answer of each operation when all is well, in the order in which they can come. */
const wells: Readonly<Record<OperationId, () => Promise<Answer>>> = {
  makeEnrolmentToken: () =>
    bench.ask("POST", "/v1/enrolment-tokens", { token: OPERATOR, body: { name: "m2", ttlSeconds: 60 } }),
  beginEnrolment: async () =>
    beginOver(bench, { token: await enrolmentToken(bench, "m2"), name: "m2" }, await bench.authority.makeTpm()),
  finishEnrolment: async () => {
    const which = await bench.authority.makeTpm();
    const begun = await beginOver(bench, { token: await enrolmentToken(bench, "m2"), name: "m2" }, which);
    return finishOver(bench, begun.body, which);
  },
  makeChallenge: () => bench.ask("POST", "/v1/challenges", { body: { machine: "m1" } }),
  judgeEvidence: () => bench.attest("m1", tpm),
  listMachines: () => bench.ask("GET", "/v1/machines", { token: VIEWER }),
  showMachine: () => bench.ask("GET", "/v1/machines/m1", { token: VIEWER }),
  clearFlags: () => bench.ask("POST", "/v1/machines/m1/flags", { token: OPERATOR, body: { clear: ["clone"] } }),
  acceptContinuity: () =>
    bench.ask("POST", "/v1/machines/m1/continuity", { token: OPERATOR, body: { accept: "reset" } }),
  listReports: () => bench.ask("GET", "/v1/machines/m1/reports", { token: VIEWER }),
  readReport: async () => bench.ask("GET", await pathOf("readReport"), { token: VIEWER }),
  readResult: async () => bench.ask("GET", await pathOf("readResult"), { token: VIEWER }),
  judgeAgain: async () => bench.ask("POST", await pathOf("judgeAgain"), { token: VIEWER }),
  readOpenApi: () => bench.ask("GET", "/v1/openapi.json"),
  readKeys: () => bench.ask("GET", "/v1/keys"),
  checkHealth: () => bench.ask("GET", "/healthz"),
  readMetrics: () => bench.ask("GET", "/metrics", { token: VIEWER }),
  retireMachine: () => bench.ask("DELETE", "/v1/machines/m2", { token: OPERATOR }),
};

const ids = Object.keys(wells) as readonly OperationId[];

describe("the published documents", () => {
  test("are those of the schemas in use; `node attest/service/published.ts` writes them anew", () => {
    for (const [name, content] of publishedFiles()) {
      expect(JSON.parse(readFileSync(join(folder, name), "utf8")), name).toEqual(JSON.parse(content));
    }
  });

  test("name every operation once, and every status that it can answer with", () => {
    const described = Object.values(document.paths).flatMap((path) =>
      Object.values(path).map(({ operationId }) => operationId),
    );
    expect(described.toSorted()).toEqual([...ids].toSorted());
    for (const [id, operation] of Object.entries<Operation>(operations)) {
      const statuses = Object.keys(document.paths[operation.path]?.[operation.method.toLowerCase()]?.responses ?? {});
      expect(statuses, id).toContain(`${operation.answer.status}`);
      if (id !== "checkHealth")
        for (const code of refusalsOf(operation))
          expect(statuses, id).toContain(`${refusals[code as RefusalCode].status}`);
    }
  });

  test("have no reference that leads nowhere", () => {
    const text = JSON.stringify(document);
    for (const [, name] of text.matchAll(/"\$ref":"#\/components\/schemas\/(\w+)"/g))
      expect(document.components.schemas).toHaveProperty(name ?? "");
    expect(text).not.toContain("$defs");
  });
});

describe("each operation answers as it is described", () => {
  test.each(ids)("I10: %s, when all is well", async (id) => {
    const answer = await wells[id]();
    expect(answer.status).toBe(operations[id].answer.status);
    expectDocumented(id, answer);
  });

  test.each(ids)("I10: %s, to somebody without a credential, with a wrong one, from another site", async (id) => {
    const { method, role } = operations[id];
    const path = await pathOf(id);
    for (const headers of [{}, bearer("nobodys-token-at-all"), { "sec-fetch-site": "cross-site" }]) {
      const answer = await bench.ask(method, path, { headers });
      expectDocumented(id, answer);
      if (role !== "none" && !("sec-fetch-site" in headers)) expect(answer.status).toBe(401);
    }
  });

  test.each(ids.filter((id) => operations[id].body !== null))("I10: %s, to bodies that are not its own", async (id) => {
    const { method } = operations[id];
    const path = await pathOf(id);
    const bodies = [
      undefined,
      null,
      1,
      "x",
      [],
      {},
      { name: "../m1" },
      { machine: "m1", more: 1 },
      { clear: [] },
      { accept: -1 },
    ];
    const texts = [
      "{",
      '{"name":1,"name":2}',
      `${"[".repeat(2000)}`,
      '{"__proto__":{}}',
      `{"name":"${"x".repeat(70_000)}"}`,
      "\u0000",
    ];
    for (const payload of [...bodies.map((body) => (body === undefined ? "" : JSON.stringify(body))), ...texts]) {
      for (const type of ["application/json", "text/plain", "application/cmw+cbor"]) {
        const headers = { "content-type": type, "ironclaw-nonce": base64(Buffer.alloc(32)), ...bearer(OPERATOR) };
        const {
          statusCode,
          payload: text,
          headers: said,
        } = await bench.service.app.inject({ method, url: path, headers, payload });
        const body = `${said["content-type"] ?? ""}`.startsWith("application/json") ? JSON.parse(text) : null;
        expect(statusCode).toBeGreaterThanOrEqual(400);
        expect(statusCode).toBeLessThan(500);
        expectDocumented(id, { status: statusCode, text, headers: said, body });
      }
    }
  });

  test.each(ids.filter((id) => operations[id].path.includes("{")))(
    "I10: %s, to names and numbers that are none",
    async (id) => {
      const { method, path, body } = operations[id];
      const sent = body === null || body === "evidence" ? {} : { body: {} };
      for (const value of [
        "..",
        "%2e%2e%2f",
        "a%00b",
        "x".repeat(65),
        "%F0%9F%92%A9",
        "-1",
        "99999999999999999999",
        "unknown",
      ]) {
        const url = path.replace("{name}", value).replace("{id}", value);
        const answer = await bench.ask(method, url, { token: OPERATOR, ...sent });
        expect(answer.status, url).toBeGreaterThanOrEqual(400);
        expect(answer.status, url).toBeLessThan(500);
        expect(answer.body.error.code).toMatch(/^[a-z-]+$/);
      }
    },
  );

  test("what is not described does not exist, and says so in the same words", async () => {
    for (const [method, url] of [
      ["GET", "/v2/machines"],
      ["POST", "/v1/machines"],
      ["GET", "/v1/machines/m1/"],
      ["GET", "/V1/machines"],
      ["GET", "//v1/machines"],
      ["GET", "/v1/%"],
    ] as const) {
      const answer = await bench.ask(method, url, { token: VIEWER });
      expect([400, 404], url).toContain(answer.status);
      expect(Object.keys(answer.body), url).toEqual(["error"]);
    }
  });
});
