import { createPublicKey, randomBytes, verify } from "node:crypto";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect } from "vitest";
import { sha256 } from "../../policy/index.ts";
import { PACKAGE, type RunningDebian, SIGNER_UNIT } from "./debian-machine.ts";

// What an administrator and a client do on a Debian with the package, and what they see.

const PROXY = "/usr/lib/x86_64-linux-gnu/p11-kit-proxy.so";
export const GUIDE = readFileSync(resolve(import.meta.dirname, "../../agent/docs/install.md"), "utf8");

export const pcr = async ({ shell }: RunningDebian, bank: "sha256" | "sha384", index: number) =>
  (await shell.output(`cat /sys/class/tpm/tpm0/pcr-${bank}/${index}`)).trim().toLowerCase();

/** What a stock client does, as a unit of this name and this user, with nothing in its environment. */
export async function sign({ shell, machine }: RunningDebian, who: { readonly uid: number; readonly unit: string }) {
  const document = randomBytes(40);
  await shell.put("/tmp/digest", sha256(document));
  const client = `pkcs11-tool --module ${PROXY} --token-label signing --sign --mechanism ECDSA --input-file /tmp/digest`;
  const files = "-p StandardOutput=truncate:/tmp/signature -p StandardError=truncate:/tmp/complaint";
  // A one-shot unit is waited for; other ways of waiting want a message bus.
  const { code } = await shell.run(
    `systemd-run --quiet --collect --unit=${who.unit} --uid=${who.uid} -p Type=oneshot ${files} ${client}`,
  );
  const signature = Buffer.from(await shell.output("base64 -w0 /tmp/signature"), "base64");
  const spki = machine.token.keys["release-ec"];
  if (spki === undefined) throw new Error("no key");
  const key = createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" });
  const isGood = signature.length > 0 && verify("sha256", document, { key, dsaEncoding: "ieee-p1363" }, signature);
  const why = await shell.run("cat /tmp/complaint; journalctl -b -o cat -u ironclaw-agent -u ironclaw-cap | tail -12");
  return { code, isGood, why: why.output };
}

export const SIGNER = { uid: 2001, unit: SIGNER_UNIT };

export async function expectServed(running: RunningDebian): Promise<void> {
  const { code, isGood, why } = await sign(running, SIGNER);
  expect({ code, isGood }, why).toEqual({ code: 0, isGood: true });
}

export async function stateOf({ control }: RunningDebian, wanted: readonly string[]) {
  for (let tries = 0; tries < 120; tries++) {
    const answer = await control.status(3000).catch(() => null);
    const state = String(answer?.["state"]);
    if (wanted.includes(state)) return { state, reasons: JSON.stringify(answer?.["reasons"]) };
    await sleep(500);
  }
  throw new Error(`the agent was never ${wanted.join(" or ")}`);
}

/** Lines that agent/docs/install.md has an administrator type, as they stand there. */
export async function typeLines({ shell }: RunningDebian, ...beginnings: readonly string[]): Promise<void> {
  const lines = GUIDE.split("\n").map((line) => line.trim());
  for (const beginning of beginnings) {
    const line = lines.find((each) => each.startsWith(beginning));
    expect(line, `install.md: ${beginning}`).toBeDefined();
    await shell.output(line ?? "");
  }
}

/** What the package says last. */
export async function install({ shell }: RunningDebian): Promise<string> {
  const { code, output } = await shell.run(`dpkg -i ${PACKAGE}`);
  expect(code, output).toBe(0);
  return output;
}
