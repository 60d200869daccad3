import { generateKeyPairSync } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Bench, buildHostile } from "./shim-fixture.ts";

/** What happened at one C_Login. */
export type TriedPin = "right" | "wrong" | "locked";

/** A token that counts wrong PINs and locks itself at the third: test/hostile/counting-token.c. */
export interface CountingToken {
  /** The module, and the environment it needs. */
  readonly library: string;
  readonly environment: Readonly<Record<string, string>>;
  /** Must be writable for the shim. */
  readonly directory: string;
  readonly label: string;
  readonly serial: string;
  /** SubjectPublicKeyInfo DER of its one key: label `release-ec`, CKA_ID 01, P-256, signs with CKM_ECDSA. */
  readonly spki: Uint8Array;
  /** Every C_Login so far. */
  logins(): readonly TriedPin[];
  /** Wrong PINs since the last right one, as the token has it. */
  tries(): number;
  /** Makes it a token that has seen so many wrong PINs: 1 count low, 2 final try, 3 locked. */
  setTries(tries: number): void;
  /** Makes it behave in another way, or as before: see the files in counting-token.c. */
  set(trait: TokenTrait, content?: string): void;
  unset(trait: TokenTrait): void;
}

/** `flags` has a content: further CKF_... of the token, as a number in text; `attacks` the place. The others are there or not. */
export type TokenTrait = "flags" | "always-authenticate" | "no-history" | "logged-out" | "fails" | "gone" | "attacks";

export interface CountingTokenOptions {
  readonly pin: string;
  readonly label?: string;
  readonly serial?: string;
  /** Default: `tokens` of the bench. */
  readonly directory?: string;
}

export function makeCountingToken(
  bench: Pick<Bench, "directory">,
  {
    pin,
    label = "counting",
    serial = "C0UNT1NG0001",
    directory = join(bench.directory, "tokens"),
  }: CountingTokenOptions,
): CountingToken {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  mkdirSync(directory, { recursive: true });
  const files = { label, serial, pin, key: privateKey.export({ type: "pkcs8", format: "der" }) };
  for (const [name, content] of Object.entries(files)) writeFileSync(join(directory, name), content);
  const triesFile = join(directory, "tries");
  const loginsFile = join(directory, "logins");
  return {
    library: buildHostile(bench, "counting-token", "module", ["-lcrypto"]),
    environment: { COUNTING_TOKEN: directory },
    directory,
    label,
    serial,
    spki: Uint8Array.from(publicKey.export({ type: "spki", format: "der" })),
    logins: () => (existsSync(loginsFile) ? (readFileSync(loginsFile, "latin1").trim().split("\n") as TriedPin[]) : []),
    tries: () => (existsSync(triesFile) ? (readFileSync(triesFile)[0] ?? 0) : 0),
    setTries: (tries) => writeFileSync(triesFile, Uint8Array.of(tries)),
    set: (trait, content = "") => writeFileSync(join(directory, trait), content),
    unset: (trait) => rmSync(join(directory, trait), { force: true }),
  };
}
