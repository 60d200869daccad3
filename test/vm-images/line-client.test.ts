import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { LineClient } from "../../vm-images/line-client.ts";

const directory = mkdtempSync(join(tmpdir(), "line-client-"));
const servers: Server[] = [];
afterAll(() => {
  for (const server of servers) server.close();
  rmSync(directory, { recursive: true, force: true });
});

describe("JSON lines with a guest", () => {
  async function clientOf(serve: (guest: Socket) => void): Promise<LineClient> {
    const path = join(directory, `${servers.length}.sock`);
    const server = createServer(serve).listen(path);
    servers.push(server);
    await once(server, "listening");
    const socket = connect(path);
    await once(socket, "connect");
    return new LineClient(socket, "workload");
  }
  const eachRequest = (answer: (request: Record<string, unknown>, guest: Socket) => void) => (guest: Socket) => {
    guest.on("error", () => {}).setEncoding("utf8");
    let pending = "";
    guest.on("data", (chunk: string) => {
      const lines = (pending + chunk).split("\n");
      pending = lines.pop() ?? "";
      for (const line of lines) answer(JSON.parse(line), guest);
    });
  };

  test("answers find their requests in any order and in any pieces; what is no answer is dropped", async () => {
    const held: Record<string, unknown>[] = [];
    const client = await clientOf(
      eachRequest((request, guest) => {
        held.push(request);
        if (held.length < 3) return;
        guest.write('not json\nnull\n7\n{"id":"1","ok":true}\n{"id":99,"ok":true}\n{"ok":true}\n');
        const lines = held
          .reverse()
          .map(({ id, op }) => `${JSON.stringify({ id, ok: true, text: `é ${String(op)}` })}\n`);
        for (const byte of Buffer.from(lines.join(""))) guest.write(Uint8Array.of(byte));
      }),
    );
    const answers = await Promise.all(["a", "b", "c"].map((op) => client.request(op)));
    expect(answers.map((answer) => answer["text"])).toEqual(["é a", "é b", "é c"]);
    client.close();
  });

  test("I10: a refusal, silence, a lost connection, and a line without end are typed errors", async () => {
    const refusing = await clientOf(
      eachRequest(({ id }, guest) => guest.write(`${JSON.stringify({ id, ok: false, error: "no such key" })}\n`)),
    );
    await expect(refusing.request("sign")).rejects.toMatchObject({
      code: "ERR_VM_CONTROL",
      message: 'workload sign: expected ok, got "no such key"',
    });
    refusing.close();
    const silent = await clientOf(eachRequest(() => {}));
    await expect(silent.request("sign", {}, 20)).rejects.toMatchObject({ code: "ERR_VM_TIMEOUT" });
    silent.close();
    const closing = await clientOf(eachRequest((_, guest) => guest.destroy()));
    await expect(closing.request("sign")).rejects.toMatchObject({ code: "ERR_VM_PORT" });
    const endless = await clientOf(eachRequest((_, guest) => guest.write("x".repeat(9 << 20))));
    await expect(endless.request("sign")).rejects.toMatchObject({ code: "ERR_VM_PORT" });
  });

  test("a request on a closed connection fails at once, not after its time", async () => {
    const client = await clientOf(eachRequest(() => {}));
    client.close();
    await expect(client.request("sign")).rejects.toMatchObject({ code: "ERR_VM_PORT" });
  });
});
