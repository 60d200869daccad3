import type { Workload } from "./recipes.ts";

/** Accounts of every image; agent/spawner takes their numbers from here. */
const PROJECT = [
  { name: "root", uid: 0, what: "root" },
  { name: "ironclaw", uid: 990, what: "attestation agent" },
  { name: "ironclaw-shim", uid: 991, what: "PKCS#11 library" },
];

/** The spawner's list of workloads (agent/SPAWNER.md), and an account without a shell for each of them and of the project. */
export function accountFiles(workloads: readonly Workload[]): ReadonlyMap<string, Uint8Array> {
  const accounts = [...PROJECT, ...workloads.map(({ name, uid }) => ({ name, uid, what: "workload" }))];
  const lines = (texts: readonly string[]): Uint8Array =>
    new TextEncoder().encode(texts.map((line) => `${line}\n`).join(""));
  return new Map([
    ["/etc/group", lines(accounts.map(({ name, uid }) => `${name}:x:${uid}:`))],
    [
      "/etc/passwd",
      lines(accounts.map(({ name, uid, what }) => `${name}:x:${uid}:${uid}:${what}:/:/usr/sbin/nologin`)),
    ],
    [
      "/etc/ironclaw/workloads",
      lines(workloads.map(({ name, uid, port, argv }) => [name, uid, port ?? "-", ...argv].join(" "))),
    ],
  ]);
}
