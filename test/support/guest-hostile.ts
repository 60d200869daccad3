// Runs in the guest in the place of the agent, below the real spawner: the laboratory's orders come over the control port.
import { writeSync } from "node:fs";
import { open } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { serveOrders } from "./hostile-agent.ts";

const PORT = "/dev/virtio-ports/ironclaw.control";
const IDLE_MS = 20;

async function main(): Promise<void> {
  const port = await open(PORT, "r+"); // it can be opened only once
  const receive = serveOrders("/usr/lib/ironclaw", (bytes) => {
    for (let offset = 0; offset < bytes.length; ) offset += writeSync(port.fd, bytes, offset);
  });
  for (;;) {
    const { bytesRead, buffer } = await port.read(Buffer.alloc(65_536), 0, 65_536, null);
    if (bytesRead === 0) await sleep(IDLE_MS);
    else receive(new Uint8Array(buffer.subarray(0, bytesRead)));
  }
}

void main();
