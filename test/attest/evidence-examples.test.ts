import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { describe, expect, it } from "vitest";
import { celRecord, encodeCel } from "../../attest/cel.ts";
import { encodeContinuity, parseContinuity } from "../../attest/continuity.ts";
import { encodeEkCertificates, encodeEvidence, encodePcrs, measureExtraData } from "../../attest/evidence.ts";
import { encodeIncident, type Incident, incidentEvent } from "../../attest/incidents.ts";
import { encodeLaunchEvent, launchEventDigests, predictAgentPcr } from "../../attest/launch-events.ts";
import { encodeCbor, sha256, toHex, utf8 } from "../../policy/index.ts";
import { attestationKeyTemplates } from "../../seal/tpm-templates.ts";
import { makeEvidence } from "../support/evidence-maker.ts";

describe("the worked examples of EVIDENCE.md", () => {
  const document = readFileSync(resolve(import.meta.dirname, "../../attest/EVIDENCE.md"), "utf8");
  /** The hexadecimal of the block behind a sentence, without the notes beside it. */
  const block = (sentence: string) => {
    const from = document.indexOf("```\n", document.indexOf(sentence)) + 4;
    const lines = document.slice(from, document.indexOf("```", from)).split("\n");
    return lines
      .map((line) => (/^ *(?:[0-9a-f]+ {1,3})*[0-9a-f]+(?= {4}|$)/.exec(line)?.[0] ?? "").replaceAll(" ", ""))
      .join("");
  };

  it("an agent log of one event", () => {
    const event = { kind: "policy", name: "policy", sha256: sha256(new Uint8Array()) } as const;
    const log = encodeCel([celRecord(0, 13, event)]);
    expect(log).toHaveLength(172);
    expect(block("The agent log with that event alone")).toBe(toHex(log));
  });

  it("an incident and its event", () => {
    const incident: Incident = {
      ...{ what: "syscall", token: "signing", shim: 0, syscall: "ptrace", nr: 101, thread: 7, count: 1 },
      args: [0n, 7n, 0n, 0n, 0n, 2n ** 64n - 1n],
    };
    expect(block("An incident: a shim's thread 7")).toBe(toHex(encodeCbor(encodeIncident(incident))));
    expect(encodeCbor(encodeIncident(incident))).toHaveLength(121);
    expect(block("and the content of its event")).toBe(toHex(encodeLaunchEvent(incidentEvent(incident))));
  });

  it("a pcrs section, an empty ek-certificates section", () => {
    const values = new Map([
      [0, new Uint8Array(32)],
      [13, new Uint8Array(32).fill(0xdd)],
    ]);
    expect(block("The `pcrs` section for PCR 0")).toBe(toHex(encodePcrs({ bank: "sha256", values })));
    expect(toHex(encodeEkCertificates([]))).toBe("80");
  });

  it("the beginning of an envelope", async () => {
    const { evidence } = await makeEvidence();
    const envelope = toHex(encodeEvidence({ ...evidence, ak: utf8("ak") }));
    expect(block("The beginning of an envelope")).toBe(envelope.slice(0, block("The beginning of an envelope").length));
    expect(block("The beginning of an envelope").length).toBeGreaterThan(90);
  });

  it("the templates of the attestation keys, and what a verifier keeps", () => {
    for (const [kind, template] of Object.entries(attestationKeyTemplates)) {
      const line = document.split("\n").find((each) => each.startsWith(`${kind} `)) ?? "";
      expect(line.replaceAll(" ", "")).toContain(`${kind}${toHex(template)}`);
    }
    const kept = document.split("\n").find((each) => each.startsWith('{"version":2,"clock"')) ?? "";
    const bytes = utf8(kept.replace("(64 digits)", "ab".repeat(32)).replace("(32 digits)", "b0".repeat(16)));
    expect(encodeContinuity(parseContinuity(bytes))).toEqual(bytes);
  });

  it("extraData of the worked example in EVIDENCE.md is what is computed", () => {
    const ascii = (value: string) => utf8(value);
    const example = {
      ak: ascii("ak"),
      claims: ascii("claims"),
      agentLog: ascii("agent-log"),
      firmwareLog: ascii("firmware-log"),
      ekCertificates: ascii("ek-certificates"),
    };
    const nonce = Uint8Array.from({ length: 32 }, (_, index) => index);
    expect(toHex(measureExtraData(nonce, example))).toBe(
      "6d50bc3322bf115e6ab25508eabcdfbed666e4a61c31f1356b78e38597db6be0",
    );
  });

  it("the launch event of the worked example in EVIDENCE.md is what is encoded", () => {
    const event = { kind: "policy", name: "policy", sha256: sha256(new Uint8Array()) } as const;
    expect(toHex(encodeLaunchEvent(event))).toBe(
      "a3646b696e6466706f6c696379646e616d6566706f6c696379667368613235365820e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    );
    expect(toHex(launchEventDigests(event).sha256)).toBe(
      "3dbc57b68b1011985f49def211a3979f4576cbdd324489b529b0132f91d1a214",
    );
    expect(toHex(predictAgentPcr([event]).sha256)).toBe(
      "06ec152d3b623778e585c036baaabf4d2ecc07bb75345336297c177e29e34494",
    );
  });
});
