import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { type ControlClient, openControl } from "../../vm-images/control-client.ts";

const directory = mkdtempSync(join(tmpdir(), "ctl-"));
const servers: Server[] = [];
afterAll(() => {
  for (const server of servers) server.close();
  rmSync(directory, { recursive: true });
});

/** Both ends of a connection. */
async function pair(): Promise<[host: Socket, guest: Socket]> {
  const path = join(directory, `${servers.length}.sock`);
  const server = createServer().listen(path);
  servers.push(server);
  await once(server, "listening");
  const host = connect(path);
  const [[guest]] = (await Promise.all([once(server, "connection"), once(host, "connect")])) as [[Socket], unknown];
  return [host, guest];
}

type Answer = (request: Record<string, unknown>, report: Socket) => unknown;

async function clientOf(answer: Answer, timeoutMs = 5000): Promise<ControlClient> {
  const [control, guestControl] = await pair();
  const [report, guestReport] = await pair();
  guestControl.on("data", (bytes: Buffer) => {
    for (const line of bytes.toString().trim().split("\n")) {
      const request = JSON.parse(line) as Record<string, unknown>;
      const reply = answer(request, guestReport);
      if (reply !== undefined)
        guestControl.write(`not json\n${JSON.stringify({ id: request["id"], ...(reply as object) })}\n`);
    }
  });
  return openControl({ control, report, timeoutMs });
}

const frame = (content: Uint8Array, length = content.length): Buffer => {
  const header = Buffer.alloc(4);
  header.writeUInt32BE(length);
  return Buffer.concat([header, content]);
};
const challenge = { nonce: new Uint8Array(32).fill(5), bank: "sha256", pcrs: [4, 13] } as const;

describe("openControl", () => {
  it("each answer goes to its request, and a report arrives whole whatever pieces it comes in", async () => {
    const content = new Uint8Array(70_000).map((_, index) => index);
    const client = await clientOf((request, report) => {
      if (request["op"] !== "challenge") return { ok: true, op: request["op"] };
      expect(request).toMatchObject({ nonce: "05".repeat(32), bank: "sha256", pcrs: [4, 13] });
      const bytes = frame(content);
      report.write(bytes.subarray(0, 3));
      setTimeout(() => report.write(bytes.subarray(3)), 5);
      return { ok: true, length: content.length };
    });
    const [status, first, audit, second] = await Promise.all([
      client.status(),
      client.challenge(challenge),
      client.audit(0, 10),
      client.challenge(challenge),
    ]);
    expect(status).toEqual({ op: "status" });
    expect(audit).toEqual({ op: "audit" });
    expect(first).toEqual(content);
    expect(second).toEqual(content);
    client.close();
  });

  it("a refusal is an error with the agent's code, and the next request is served", async () => {
    const client = await clientOf((request) =>
      request["op"] === "status" ? { ok: true } : { ok: false, error: { code: "ERR_X", message: "no, refusing" } },
    );
    await expect(client.challenge(challenge)).rejects.toMatchObject({
      code: "ERR_VM_CONTROL",
      got: "ERR_X: no, refusing",
    });
    await expect(client.activate(new Uint8Array(2), new Uint8Array(2))).rejects.toMatchObject({
      code: "ERR_VM_CONTROL",
    });
    expect(await client.status()).toEqual({});
    client.close();
  });

  it("a question that was lost before the guest listened does not hold up the next one", async () => {
    let asked = 0;
    const client = await clientOf(() => {
      asked += 1;
      return asked === 1 ? undefined : { ok: true, asked };
    }, 600_000);
    await expect(client.status(1)).rejects.toMatchObject({ code: "ERR_VM_TIMEOUT" });
    expect(await client.status()).toEqual({ asked: 2 });
    client.close();
  });

  it("I10: a guest that sends reports nobody asked for loses the port, and fills no memory", async () => {
    const [control] = await pair();
    const [report, guest] = await pair();
    const client = openControl({ control, report });
    guest.on("error", () => undefined); // the host hangs up in the middle
    const content = new Uint8Array(1 << 20);
    for (let sent = 0; sent < 6; sent += 1) guest.write(frame(content));
    await once(report, "close");
    await expect(client.challenge(challenge)).rejects.toMatchObject({ code: "ERR_VM_PORT" });
    client.close();
  });

  it("I10: silence, a report beyond 4 MiB and a closed port end in typed errors", async () => {
    const silent = await clientOf(() => undefined, 50);
    await expect(silent.status()).rejects.toMatchObject({ code: "ERR_VM_TIMEOUT" });
    const huge = await clientOf((_, report) => {
      report.write(frame(new Uint8Array(1), 0x400001));
      return { ok: true };
    });
    await expect(huge.challenge(challenge)).rejects.toMatchObject({ code: "ERR_VM_CONTROL" });
    await expect(huge.challenge(challenge)).rejects.toMatchObject({ code: "ERR_VM_PORT" });
    silent.close();
    await expect(silent.status()).rejects.toMatchObject({ code: "ERR_VM_PORT" });
    huge.close();
  });
});
