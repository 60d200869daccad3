import { describe, expect, test } from "vitest";
import type { AgentConfig } from "../../agent/config.ts";
import { expectedLaunchEvents, launchEvents, type ModuleFiles } from "../../agent/launch/expected-events.ts";
import { planShimFiles, SHIM_PATH } from "../../agent/launch/files.ts";
import { measureDevices, measureEnvironment } from "../../attest/index.ts";
import { fromHex, parsePolicy, sha256, sortedModules, toHex, utf8 } from "../../policy/index.ts";
import { documentBytes, twoModuleDocument, twoTokenDocument } from "../support/policy-document.ts";

const configBytes = utf8("the configuration");
/** All that a plan takes from it. */
const config = { programs: "/usr/lib/ironclaw" } as AgentConfig;
const shim = sha256(utf8("shim"));

function documents(document: unknown) {
  const policyBytes = documentBytes(document);
  const parsed = { config, policy: parsePolicy(policyBytes) };
  return { ...parsed, configBytes, policyBytes, anchorsBytes: utf8("anchors") };
}

const libc = "/lib/x86_64-linux-gnu/libc.so.6";

describe("the events of a launch with several modules", () => {
  test("I1 I2: each module is measured whole, by name, and what an earlier one measured is not measured again", () => {
    const { policy, ...rest } = documents(twoModuleDocument());
    const events = expectedLaunchEvents({ ...rest, policy }, shim);
    expect(events.map(({ kind, name }) => `${kind} ${name}`)).toEqual([
      ...["config agent.json", "anchors anchors", "policy policy"],
      ...["profile relay", "library /usr/lib/nethsm/libnethsm.so", `closure ${libc}`, `closure ${SHIM_PATH}`],
      ...["file /etc/softhsm2.conf", "environment nethsm"],
      ...["profile local", "library /usr/lib/softhsm/libsofthsm2.so", "environment softhsm"],
      "devices devices",
    ]);
    const digestOf = (name: string) => toHex(events.find((event) => event.name === name)?.sha256 ?? new Uint8Array());
    expect(digestOf(SHIM_PATH)).toBe(toHex(shim));
    expect(digestOf("environment nethsm".slice(12))).toBe(toHex(measureEnvironment({})));
    expect(digestOf("softhsm")).toBe(toHex(measureEnvironment({ SOFTHSM2_CONF: "/etc/softhsm2.conf" })));
    expect(digestOf("devices")).toBe(toHex(measureDevices(policy.devices)));
  });

  test("I1: a file whose bytes differ from the ones that an earlier module measured is measured again", () => {
    const { policy, ...rest } = documents(twoModuleDocument());
    const digests = (byte: string) => () => fromHex(byte.repeat(32));
    const inputs = { policy, module: [], token: [] };
    const modules = sortedModules(policy).map(
      (module, index): ModuleFiles => ({
        ...{ module, plan: planShimFiles(config, module, inputs) },
        digestOf: digests(index === 0 ? "aa" : "bb"),
      }),
    );
    const events = launchEvents(rest, modules, policy.devices);
    for (const name of [libc, SHIM_PATH, "/etc/softhsm2.conf"])
      expect(events.filter((event) => event.name === name).map(({ sha256: digest }) => toHex(digest))).toEqual([
        "aa".repeat(32),
        "bb".repeat(32),
      ]);
  });

  test("I5: a token's file is one of the module that may write it, and one that no module may write is left out of no plan", () => {
    const { policy } = documents(twoModuleDocument());
    const file = (path: string) => ({ path, offset: 0, length: 1 });
    const token = [file("/var/lib/softhsm/tokens/a"), file("/var/lib/nethsm/b"), file("/usr/lib/planted.so")];
    const tokenFiles = sortedModules(policy).map((module) =>
      planShimFiles(config, module, { policy, module: [], token })
        .filter(({ role }) => role === "token")
        .map(({ path }) => path),
    );
    expect(tokenFiles).toEqual([
      ["/var/lib/nethsm/b", "/usr/lib/planted.so"],
      ["/var/lib/softhsm/tokens/a", "/usr/lib/planted.so"],
    ]);
  });

  test("I2: two tokens of one module are measured as one token of it is, but for the policy", () => {
    const kinds = (document: unknown) =>
      expectedLaunchEvents(documents(document), shim).filter(({ kind }) => kind !== "policy");
    const { tokens, ...one } = twoTokenDocument();
    const { payments: _, ...left } = tokens as Record<string, unknown>;
    expect(kinds({ ...one, tokens: left })).toEqual(kinds(twoTokenDocument()));
  });
});
