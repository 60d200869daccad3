import { execFileSync } from "node:child_process";
import { createPublicKey, hash, verify } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { appraise, explain, modulePolicy, type VerifiedEvidence } from "../../attest/index.ts";
import { encodeBundle, sha256Hex, utf8 } from "../../policy/index.ts";
import { DEMO_APPRAISAL } from "../../vm-images/story/verifier.ts";
import { BENCH_MODULE, changeModule, pinOf } from "../support/launch-documents.ts";
import {
  type Pkcs11Proxy,
  PROXY_CLIENT,
  PROXY_CLIENT_CONFIG,
  proxyEnvironment,
  startProxy,
} from "../support/pkcs11-proxy.ts";
import { type Agent, openServiceBench, type ServiceBench } from "../support/service-fixture.ts";
import { NATIVE_DIRECTORY } from "../support/shim-fixture.ts";

// The real agent with a network HSM: Caml Crush's client as the pinned library, its daemon with SoftHSM at the other end of the relay.

const LISTEN = 1500;
const CALLER = 2001;
const TOOL = "/usr/bin/pkcs11-tool";
const CLIENT = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so";
const isRoot = process.getuid?.() === 0;

let service: ServiceBench;
let proxy: Pkcs11Proxy;

const digestOf = (path: string) => sha256Hex(new Uint8Array(readFileSync(path)));

beforeAll(async () => {
  service = await openServiceBench();
  proxy = await startProxy(service.bench, service.bench.token.environment);
});
afterAll(async () => {
  await service[Symbol.asyncDispose]();
  await proxy?.stop();
});

/** The token is behind the proxy: no file of it is in the machine. */
function start(): Promise<Agent> {
  return service.start({
    realCallers: isRoot,
    slots: (slots) => {
      slots.set("module", encodeBundle([[PROXY_CLIENT, new Uint8Array(readFileSync(PROXY_CLIENT))]]));
      slots.delete("token");
    },
    policy: (draft) => {
      const config = Object.fromEntries(PROXY_CLIENT_CONFIG.map((path) => [path, digestOf(path)]));
      changeModule(draft, {
        ...modulePolicy(pinOf(service.bench, PROXY_CLIENT), config, proxyEnvironment(LISTEN)),
        profile: { name: "relay", sha256: digestOf(join(NATIVE_DIRECTORY, "relay.profile")) },
        connect: [{ listen: `127.0.0.1:${LISTEN}`, to: `127.0.0.1:${proxy.port}` }],
        writable: [],
      });
      draft.callers = { signer: { uid: CALLER, exe: [`sha256:${digestOf(TOOL)}`], unit: null } };
    },
  });
}

describe("a launch whose library speaks to a network HSM through the relay", () => {
  let agent: Agent;
  let evidence: VerifiedEvidence;
  const opening = () => `module ${BENCH_MODULE}: tcp 127.0.0.1:${proxy.port} through the relay`;
  beforeAll(async () => {
    agent = await start();
  });

  test("I5 I9: serves, and its report names what the library reaches", async () => {
    expect(await agent.launched()).toMatchObject({ state: "serving", reasons: [], violations: {} });
    evidence = await service.verified(agent, await service.enrolled(agent), "sha384");
    const { measured, asserted } = evidence.claims;
    expect(measured.launch).toBe("serving");
    expect([...measured.profiles.keys()]).toEqual(["relay"]);
    expect(asserted.exceptions).toEqual([opening()]);
    expect(asserted.shims).toMatchObject([{ role: "active", process: { capabilities: "0".repeat(16) } }]);
    expect(agent.processes().map(({ command }) => command)).toEqual(expect.arrayContaining(["shim", "relay"]));
  });

  test("I5 I9: the first thing that a verifier is told, as findings and as text, is that the sandbox has an opening", () => {
    const now = new Date();
    const result = appraise(evidence, [agent.provisioned.release], DEMO_APPRAISAL, { now, challenged: now });
    const found = result.findings.map(({ tier, code, item }) => `${tier} ${code} ${item}`);
    expect(found.slice(0, 2)).toEqual([
      `warning profile-exception ${opening()}`,
      "warning profile-exception profile relay",
    ]);
    // the bench's: its firmware log, and one user for all its processes; a TPM calls its clock safe some seconds after its start
    const others = found.slice(2).filter((finding) => finding !== "warning clock-unsafe clockInfo.safe");
    expect(others.sort()).toEqual([
      "contraindicated shim-process shim 0 uid",
      "warning firmware-separator PCRs 0, 1, 2, 3, 4, 5, 6, 7",
    ]);
    expect(explain(result).split("\n").slice(1, 3)).toEqual([
      `  exception  ${opening()}`,
      "  exception  profile relay",
    ]);
  });

  // without root there is no second user whom the agent could tell from nobody
  test.skipIf(!isRoot)("I5 I6: signs for the policy's caller, with the key behind the relay", () => {
    const message = utf8("what the key behind the relay signs\n");
    const address = `unix:path=${join(agent.directory, "scopes/release-signing.sock")}`;
    const sign = ["--module", CLIENT, "--sign", "--mechanism", "ECDSA", "--label", "release-ec"];
    const signature = execFileSync(TOOL, sign, {
      ...{ uid: CALLER, gid: CALLER, cwd: "/", input: hash("sha256", message, "buffer") },
      env: { P11_KIT_SERVER_ADDRESS: address },
      stdio: ["pipe", "pipe", "pipe"],
    });
    const spki = Buffer.from(service.bench.token.keys["release-ec"] ?? []);
    const key = createPublicKey({ key: spki, format: "der", type: "spki" });
    expect(verify("sha256", message, { key, dsaEncoding: "ieee-p1363" }, signature)).toBe(true);
  });

  test("I2 I5: is refused while nobody is at the relay's other end, and its report names the opening all the same", async () => {
    await service.stopAll();
    await proxy.stop();
    const away = await start();
    expect(await away.launched()).toMatchObject({ state: "refused" });
    const { claims } = await service.verified(away, await service.enrolled(away), "sha256");
    expect(claims.measured.launch).toBe("refused");
    expect(claims.asserted.exceptions).toEqual([opening()]);
    await service.expectClosed(away);
  });
});
