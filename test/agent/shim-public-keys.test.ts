import { generateKeyPairSync } from "node:crypto";
import { copyFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ShimKey } from "../../agent/shim-replies.ts";
import {
  type Bench,
  benchSlot,
  keyNamed,
  makeToken,
  native,
  openBench,
  runTokenTool,
  SOFTHSM,
  startShim,
  TEST_PIN,
  type Token,
  writeHostProfile,
} from "../support/shim-fixture.ts";

/** More than a shim has room for. */
const MANY = 600;

let bench: Bench;
let token: Token;

beforeAll(() => {
  bench = openBench();
  token = makeToken(bench);
});
afterAll(() => bench.remove());

async function listed(): Promise<readonly ShimKey[]> {
  const profile = writeHostProfile(bench, token);
  const { shim, child, give } = await startShim(native(), { profile, environment: token.environment });
  try {
    const slot = benchSlot(await shim.load(SOFTHSM));
    give(TEST_PIN);
    await shim.login(slot);
    return await shim.keys(slot);
  } finally {
    child.kill("SIGKILL");
  }
}

const objectFiles = () =>
  readdirSync(token.tokens, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".object"));

/** A public key object without a private half; gives its file. */
function addPublicKey(type: "ec" | "rsa", id: string): string {
  const before = new Set(objectFiles());
  const { publicKey } =
    type === "ec"
      ? generateKeyPairSync("ec", { namedCurve: "P-256" })
      : generateKeyPairSync("rsa", { modulusLength: 2048 });
  const path = join(bench.directory, "public.der");
  writeFileSync(path, publicKey.export({ format: "der", type: "spki" }));
  runTokenTool(token, ["--write-object", path, "--type", "pubkey", "--id", id, "--label", "other"]);
  const [file, ...others] = objectFiles().filter((name) => !before.has(name));
  if (file === undefined || others.length > 0) throw new Error("not one object more");
  return join(token.tokens, file);
}

describe("the public half of a key that a shim lists", () => {
  test("I6: is that of the one public key with its id and type, and of no other", async () => {
    addPublicKey("rsa", "01"); // another type
    addPublicKey("ec", "0100"); // another id
    const keys = await listed();
    expect(keyNamed(keys, "ec").ecPoint).toHaveLength(67);
    expect(keyNamed(keys, "rsa").modulus).toHaveLength(256);
  });

  test("I6: is nobody's when two public keys have its id and type, however many there are in all", async () => {
    const file = addPublicKey("ec", "01");
    const two = await listed();
    expect(keyNamed(two, "ec").ecPoint).toHaveLength(0); // SoftHSM's private keys have no point
    expect(keyNamed(two, "rsa").modulus).toHaveLength(256);
    for (let index = 0; index < MANY; index++)
      copyFileSync(file, file.replace(/[0-9a-f]{12}\.object$/, `${`${index}`.padStart(12, "0")}.object`));
    const withoutHandles = (keys: readonly ShimKey[]) => keys.map((key) => ({ ...key, handle: 0n }));
    expect(withoutHandles(await listed())).toEqual(withoutHandles(two));
  });
});
