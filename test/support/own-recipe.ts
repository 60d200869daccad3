import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readRecipe } from "../../vm-images/recipes.ts";
import type { RunningMachine } from "../../vm-images/story/running.ts";

const PAYER_UID = 3000;

/** A recipe of one's own, written into this folder: the cloud image with one more workload, whose program comes with the recipe, and reads files. */
export async function ownRecipe(folder: string): Promise<string> {
  const port = `workload.${PAYER_UID}`;
  const program = "/usr/lib/payer/echo.cjs";
  mkdirSync(join(folder, "root/usr/lib/payer"), { recursive: true });
  const { workloads } = await readRecipe("cloud");
  const payer = { name: "payer", uid: PAYER_UID, port, argv: ["/usr/bin/node", program, `/dev/virtio-ports/${port}`] };
  writeFileSync(
    join(folder, "image.json"),
    JSON.stringify({ version: 1, like: "cloud", workloads: [...workloads, payer] }),
  );
  writeFileSync(
    join(folder, "root", program),
    `const { openSync, readFileSync, readSync, writeSync } = require("node:fs");
    const port = openSync(process.argv[2], "r+");
    const bytes = Buffer.alloc(4096);
    setInterval(() => {
      const length = readSync(port, bytes);
      if (length === 0) return;
      const { id, paths } = JSON.parse(bytes.toString("utf8", 0, length));
      const contents = paths.map((path) => readFileSync(path, "utf8").trim());
      writeSync(port, JSON.stringify({ id, ok: true, uid: process.getuid(), contents }) + "\\n");
    }, 100);`,
  );
  return folder;
}

/** What that workload finds in these files, as the user that it is. */
export async function readByPayer(running: RunningMachine, paths: readonly string[]): Promise<readonly unknown[]> {
  const payer = await running.workload(PAYER_UID);
  const { uid, contents } = await payer.request("read", { paths }).finally(() => payer.close());
  if (uid !== PAYER_UID || !Array.isArray(contents)) throw new Error(`the workload answers as uid ${uid}`);
  return contents;
}
