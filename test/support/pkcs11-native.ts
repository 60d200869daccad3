import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, renameSync } from "node:fs";
import { registerHooks } from "node:module";
import { join, resolve } from "node:path";
import type * as Pkcs11Js from "pkcs11js";

const root = resolve(import.meta.dirname, "../..");

/** The native part of pkcs11js. Compiled on first use: packages run no install scripts here. */
export function pkcs11NativePath(): string {
  const path = join(root, "build/native/pkcs11.node");
  if (existsSync(path)) return path;
  mkdirSync(join(root, "build/native"), { recursive: true });
  const source = join(root, "node_modules/pkcs11js");
  const headers = join(root, `node_modules/node-linux-${process.arch}/include/node`);
  const temporary = `${path}.${process.pid}`;
  const flags =
    "-std=c++17 -O1 -shared -fPIC -fvisibility=hidden -DNAPI_VERSION=9 -DNODE_GYP_MODULE_NAME=pkcs11 -DNAPI_DISABLE_CPP_EXCEPTIONS";
  execFileSync("g++", [
    ...flags.split(" "),
    ...[`-I${source}/includes`, `-I${headers}`],
    ...["dl.cpp", "common.cpp", "main.cpp"].map((file) => join(source, "src", file)),
    ...["-o", temporary, "-ldl"],
  ]);
  renameSync(temporary, path);
  return path;
}

/** Loads pkcs11js with that native part. For child processes: a PKCS #11 library stays in the process that loads it. */
export async function loadPkcs11Js(): Promise<typeof Pkcs11Js> {
  const native = pkcs11NativePath();
  registerHooks({
    resolve: (specifier, context, next) =>
      next(specifier === "./build/Release/pkcs11.node" ? native : specifier, context),
  });
  return import("pkcs11js");
}
