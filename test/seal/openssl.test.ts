import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { mkdtempDisposable } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { ADDON_NAME } from "node-tpm2-tss";
import { expect, test } from "vitest";
import { UNSEALER } from "../support/seal-fixture.ts";
import { NATIVE_DIRECTORY } from "../support/shim-fixture.ts";

const BINDING = resolve(import.meta.dirname, "../../seal/node-tpm2-tss/src/binding.ts");
const LIBRARY_CONTEXT = ["OSSL_LIB_CTX_new", "OSSL_LIB_CTX_free"] as const;

/** What the dynamic loader says. No request is given: what a process does with its libraries it has done before that. */
function loaderSays(
  debug: "bindings" | "files",
  [command, ...args]: readonly [string, ...string[]],
  env: NodeJS.ProcessEnv = {},
): string {
  const { stderr } = spawnSync(command, args, {
    input: "",
    env: { ...env, LD_DEBUG: debug },
    encoding: "utf8",
    maxBuffer: 256 << 20,
  });
  return stderr;
}

const loadAddon = `(await import(${JSON.stringify(BINDING)})).loadBinding(${JSON.stringify(NATIVE_DIRECTORY)})`;
test.each([
  { name: "the unsealer", user: UNSEALER, command: [UNSEALER, "swtpm:path=/nowhere"] as const },
  {
    name: "the addon",
    user: join(NATIVE_DIRECTORY, ADDON_NAME),
    command: [process.execPath, "--input-type=module", "-e", loadAddon] as const,
  },
])("libtss2 finds the one OpenSSL library context that $name has for it", ({ user, command }) => {
  const bindings = loaderSays("bindings", [...command]);
  const bound = [...bindings.matchAll(/binding file \S*libtss2-esys\S* \[0\] to (\S+) \[0\]: normal symbol `(\w+)'/g)];
  for (const symbol of LIBRARY_CONTEXT)
    expect(bound.filter((match) => match[2] === symbol).map((match) => match[1])).toEqual([user]);
  const hashes = bound.filter((match) => match[2] === "EVP_MD_fetch").map((match) => match[1]);
  expect(hashes).toEqual([expect.stringContaining("libcrypto.so.3")]);
});

test("I4: no configuration of OpenSSL loads a provider into the unsealer", async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "ironclaw-openssl-"));
  const configuration = join(folder.path, "openssl.cnf");
  const provider = "libtss2-fapi.so"; // any library that is there and that the unsealer does not use
  const sections = [
    "[all]",
    "providers = named",
    "[named]",
    "own = own",
    "[own]",
    `module = ${provider}`,
    "activate = 1",
  ];
  writeFileSync(configuration, `${["openssl_conf = all", ...sections].join("\n")}\n`);
  const environment = { OPENSSL_CONF: configuration };
  expect(loaderSays("files", ["openssl", "dgst", "-sha256"], { ...environment, PATH: process.env["PATH"] })).toContain(
    provider,
  );
  expect(loaderSays("files", [UNSEALER, "swtpm:path=/nowhere"], environment)).not.toContain(provider);
});
