import { once } from "node:events";
import { type AddressInfo, connect, type Socket } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Turns } from "../../../attest/service/turns.ts";
import type { SoftTpm } from "../../support/soft-tpm.ts";
import { openVerifierBench, type VerifierBench, VIEWER } from "../../support/verifier-fixture.ts";

let bench: VerifierBench;
let tpm: SoftTpm;
let port = 0;
const open: Socket[] = [];
beforeAll(async () => {
  bench = await openVerifierBench({
    config: (config) => ({ ...config, limits: { ...config.limits, connections: 8, requestSeconds: 1 } }),
  });
  tpm = await bench.enrol("m1");
  await bench.service.listen();
  port = (bench.service.app.server.address() as AddressInfo).port;
});
afterAll(() => bench[Symbol.asyncDispose]());

/** Sends bytes as they are; resolves with all that comes back before the other side closes. */
async function raw(text: string | Uint8Array, end = true): Promise<string> {
  const socket = connect(port, "127.0.0.1");
  open.push(socket);
  let said = "";
  socket.on("data", (chunk) => {
    said += chunk;
  });
  socket.on("error", () => {});
  await once(socket, "connect");
  socket.write(text);
  if (end) socket.end();
  if (!socket.closed) await once(socket, "close");
  return said;
}
const healthy = async () => (await bench.ask("GET", "/healthz")).status === 200;

describe("bytes that are no request", () => {
  test.each<[string, string]>([
    ["nonsense", "\u0000\u0001\u0002 nonsense\r\n\r\n"],
    ["another protocol", "SSH-2.0-client\r\n"],
    ["a header that is too large", `GET / HTTP/1.1\r\nx: ${"a".repeat(20_000)}\r\n\r\n`],
    ["two lengths", "POST /v1/challenges HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"],
    [
      "a length and chunks",
      "POST /v1/challenges HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ["a path that is none", "GET /%zz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"],
  ])("I10: %s is refused in one line, and others are served", async (_, text) => {
    expect(await raw(text)).toMatch(/^HTTP\/1\.1 4\d\d /);
    expect(await healthy()).toBe(true);
  });

  test("I10: a request that never ends is given up after its time", async () => {
    const slow = raw(
      "POST /v1/challenges HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
      false,
    );
    expect(await slow).toMatch(/^(?:HTTP\/1\.1 408 |$)/);
    expect(await healthy()).toBe(true);
  });

  test("I10: connections beyond the cap are closed, and there is room again when one ends", async () => {
    const idle = Array.from({ length: 8 }, () => connect(port, "127.0.0.1"));
    await Promise.all(idle.map((socket) => once(socket, "connect")));
    const health = () => raw("GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    // the server counts them as it accepts them, and as it sees them end
    await expect.poll(health, { timeout: 60_000 }).toBe("");
    for (const socket of idle) socket.destroy();
    await expect.poll(health, { timeout: 60_000 }).toMatch(/^HTTP\/1\.1 200 /);
  });
});

describe("what a page in a browser gets", () => {
  test("headers that let it load nothing, be framed by nobody, and be kept nowhere", async () => {
    for (const url of ["/v1/keys", "/nowhere", "/healthz"]) {
      const { headers } = await bench.ask("GET", url);
      expect(headers).toMatchObject({
        "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ...{ "x-content-type-options": "nosniff", "cache-control": "no-store", "referrer-policy": "no-referrer" },
      });
    }
  });

  test("the page's files under a policy that allows its own script and style only", async () => {
    const page = new Map([
      ["index.html", { type: "text/html; charset=utf-8", bytes: Buffer.from("<!doctype html>") }],
      ["page.js", { type: "text/javascript; charset=utf-8", bytes: Buffer.from("1") }],
    ]);
    await using other = await openVerifierBench({ dependencies: { page } });
    for (const [url, type] of [
      ["/", "text/html"],
      ["/page.js", "text/javascript"],
      ["/page/page.js", "text/javascript"],
    ] as const) {
      const { status, headers } = await other.ask("GET", url);
      expect(status).toBe(200);
      expect(headers["content-type"]).toContain(type);
      expect(headers["content-security-policy"]).toContain("script-src 'self'; style-src 'self'");
    }
    expect((await other.ask("GET", "/index.js")).status).toBe(404);
  });

  test("the real page, built from its sources, or one plain line", async () => {
    await using other = await openVerifierBench({ realPage: true });
    const { status, text } = await other.ask("GET", "/");
    expect(status).toBe(200);
    expect(text.toLowerCase()).toContain("verifier");
  });
});

describe("many at a time", () => {
  test("I10: a peer beyond its rate is refused, and served again with time", async () => {
    await using other = await openVerifierBench({
      config: (config) => ({ ...config, limits: { ...config.limits, perPeer: { perMinute: 60, burst: 5 } } }),
    });
    const statuses: number[] = [];
    for (let at = 0; at < 7; at++) statuses.push((await other.ask("GET", "/v1/keys")).status);
    expect(statuses).toEqual([200, 200, 200, 200, 200, 429, 429]);
    other.later(1);
    expect((await other.ask("GET", "/v1/keys")).status).toBe(200);
  });

  test("I10: while a large report is judged, others are answered", async () => {
    const challenge = await bench.challenge("m1");
    const large = new Uint8Array(4 << 20).fill(0x82);
    const judged = bench.send(challenge, large, VIEWER);
    const started = performance.now();
    const answered = await Promise.all(Array.from({ length: 20 }, healthy));
    const elapsed = performance.now() - started;
    expect(answered).toEqual(Array.from({ length: 20 }, () => true));
    expect((await judged).status).toBe(422);
    expect(elapsed).toBeLessThan(10_000);
    expect((await bench.attest("m1", tpm)).status).toBe(200);
  });

  test("I10: of one key only so many wait, and each key has its own line", async () => {
    const turns = new Turns(2);
    const { promise, resolve } = Promise.withResolvers<void>();
    const order: string[] = [];
    const take = (key: string, name: string) =>
      turns.take(key, async () => {
        await promise;
        order.push(name);
      });
    const taken = [take("a", "1"), take("a", "2"), take("b", "3")];
    expect(take("a", "4")).toBeNull();
    resolve();
    await Promise.all(taken);
    expect(order.indexOf("1")).toBeLessThan(order.indexOf("2"));
    await turns.take("a", async () => order.push("5"));
    expect(order).toHaveLength(4);
  });

  test("I10: that one turn fails does not end the line", async () => {
    const turns = new Turns(2);
    const failing = turns.take("a", () => Promise.reject(new Error("no")));
    const next = turns.take("a", async () => "yes");
    await expect(failing).rejects.toThrow("no");
    expect(await next).toBe("yes");
  });
});
