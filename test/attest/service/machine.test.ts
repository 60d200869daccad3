import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { connect } from "node:net";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { encodeEndorsementAnchors, verifyEar } from "../../../attest/index.ts";
import type { VerifierConfig } from "../../../attest/service/index.ts";
import { encodeSpkiPem } from "../../../policy/index.ts";
import { type CliResult, program } from "../../support/cli.ts";
import { type CliFixture, makeCliFixture } from "../../support/cli-fixture.ts";

const ironclaw = resolve(import.meta.dirname, "../../../agent/cli/ironclaw.ts");
let made: CliFixture;
let service: Served;
const at = (name: string) => made.at(name);

interface Served {
  readonly child: ChildProcess;
  readonly log: readonly string[];
  /** Resolves with the next line of the log that says so. */
  said(words: string): Promise<string>;
  readonly ended: Promise<number | null>;
}

async function serve(): Promise<Served> {
  const child = spawn(
    process.execPath,
    [ironclaw, "verifier", "serve", "--config", at("verifier/verifier.json"), "--json"],
    { stdio: "pipe" },
  );
  const log: string[] = [];
  const waiting: { words: string; settle(line: string): void }[] = [];
  createInterface({ input: child.stderr }).on("line", (line) => {
    log.push(line);
    for (const one of waiting.filter(({ words }) => line.includes(words))) {
      waiting.splice(waiting.indexOf(one), 1);
      one.settle(line);
    }
  });
  const ended = once(child, "close").then(([code]) => code as number | null);
  await Promise.race([
    once(child.stdout, "data"),
    ended.then((code) => Promise.reject(new Error(`ended ${code}: ${log.join("\n")}`))),
  ]);
  const said = (words: string) => new Promise<string>((settle) => waiting.push({ words, settle }));
  return { child, log, said, ended };
}

/** Over the service's Unix socket. */
function get(path: string, token = "viewer"): Promise<{ status: number; body: string }> {
  return new Promise((settle, reject) => {
    const headers = { authorization: `Bearer ${made.text(`verifier/${token}.token`).trim()}` };
    request({ socketPath: at("verifier/socket"), path, headers, agent: false }, (response) => {
      let body = "";
      response.on("data", (chunk) => {
        body += chunk;
      });
      response.on("end", () => settle({ status: response.statusCode ?? 0, body }));
    })
      .on("error", reject)
      .end();
  });
}
const machineNow = async (name = "vm-1") => JSON.parse((await get(`/v1/machines/${name}`)).body);
const to = () => ["--to", `unix:${at("verifier/socket")}`];
const push = (...more: readonly string[]) =>
  program(["verifier", "push", "--machine", at("machine"), "--name", "vm-1", ...to(), ...more]);
const enrol = async (name: string): Promise<CliResult> => {
  const token = at(`${name}.${Math.random().toString(36).slice(2)}`);
  const invited = await program([
    "verifier",
    "invite",
    name,
    ...to(),
    "--token",
    at("verifier/operator.token"),
    "--out",
    token,
  ]);
  expect(invited).toMatchObject({ code: 0 });
  expect(statSync(token).mode & 0o777).toBe(0o600);
  return program([
    "verifier",
    "enrol",
    name,
    "--machine",
    at("machine"),
    ...to(),
    "--token",
    token,
    "--issuer",
    at("ek-issuer.pem"),
    "--json",
  ]);
};

beforeAll(async () => {
  made = await makeCliFixture({ machine: true });
  const anchor = {
    name: "swtpm of this host",
    pem: made.text("ek-ca.pem"),
    assurance: "software-tpm",
    requireEkPurpose: true,
    manufacturers: "any",
  } as const;
  writeFileSync(at("endorsement.json"), encodeEndorsementAnchors([anchor]));
  const init = [
    "verifier",
    "init",
    at("verifier"),
    "--anchors",
    at("anchors.json"),
    "--endorsement-anchors",
    at("endorsement.json"),
  ];
  expect(await program(init)).toMatchObject({ code: 0 });
  const config: VerifierConfig = made.json("verifier/verifier.json");
  writeFileSync(at("verifier/verifier.json"), JSON.stringify({ ...config, listen: { unix: "socket" } }));
  writeFileSync(at("verifier/appraisal.json"), made.text("appraisal.json"));
  writeFileSync(at("verifier/references/first.json"), made.text("release.json"));
  service = await serve();
}, 300_000);
afterAll(async () => {
  service?.child.kill("SIGKILL");
  await made?.[Symbol.asyncDispose]();
});

describe("the service beside a machine on a real TPM", () => {
  test("`verifier check` says what it accepts", async () => {
    const { code, out } = await program(["verifier", "check", "--config", at("verifier/verifier.json"), "--json"]);
    expect(code).toBe(0);
    expect(JSON.parse(out)).toMatchObject({
      ...{ releases: [{ accepted: "yes" }], endorsementAnchors: [{ assurance: "software-tpm" }], warnings: [] },
    });
  });

  test("I9: a machine enrols by its TPM, reports, and is affirmed by a token that anybody can check", async () => {
    expect(JSON.parse((await enrol("vm-1")).out)).toMatchObject({ name: "vm-1", assurance: "software-tpm" });
    const { code, out } = await push("--once", "--json");
    const { outcome, ear } = JSON.parse(out);
    expect({ code, outcome }).toEqual({ code: 0, outcome: "affirming" });
    const [jwk] = JSON.parse((await get("/v1/keys")).body).keys;
    const prefix = Buffer.from("3059301306072a8648ce3d020106082a8648ce3d03010703420004", "hex");
    const spki = Buffer.concat([prefix, Buffer.from(jwk.x, "base64url"), Buffer.from(jwk.y, "base64url")]);
    const claims = await verifyEar(ear, encodeSpkiPem(new Uint8Array(spki)), new Date());
    expect(claims.submods.ironclaw["ironclaw.machine"]).toBe("vm-1");
    expect(await machineNow()).toMatchObject({ state: "affirming", flags: [], release: expect.any(String) });
  });

  test("I9: the same TPM under another name is a clone, and the machine is flagged", async () => {
    const second = await enrol("vm-2");
    expect(second.code).toBe(1);
    expect(second.err).toContain("clone");
    expect((await machineNow()).flags).toEqual(["clone"]);
  });

  test("I9: a stored report of a real TPM is judged again to the same verdict", async () => {
    const { lastReport, result } = await machineNow();
    const again = await new Promise<string>((settle, reject) => {
      const headers = { authorization: `Bearer ${made.text("verifier/viewer.token").trim()}` };
      const path = `/v1/machines/vm-1/reports/${lastReport}/appraisal`;
      request({ method: "POST", socketPath: at("verifier/socket"), path, headers, agent: false }, (response) => {
        let body = "";
        response.on("data", (chunk) => {
          body += chunk;
        });
        response.on("end", () => settle(body));
      })
        .on("error", reject)
        .end();
    });
    expect(JSON.parse(again)).toEqual(result);
  });

  test("reports go on by themselves until they are told to end", async () => {
    const before = JSON.parse((await get("/v1/machines/vm-1/reports")).body).length;
    const args = [
      ironclaw,
      "verifier",
      "push",
      "--machine",
      at("machine"),
      "--name",
      "vm-1",
      ...to(),
      "--interval",
      "1",
      "--json",
    ];
    const pusher = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "ignore"] });
    let outcomes = 0;
    for await (const chunk of pusher.stdout) {
      outcomes += `${chunk}`.split('"outcome"').length - 1;
      if (outcomes >= 3) pusher.kill("SIGTERM");
    }
    expect(pusher.exitCode ?? (await once(pusher, "close"))[0]).toBe(0);
    expect(JSON.parse((await get("/v1/machines/vm-1/reports")).body).length).toBeGreaterThanOrEqual(before + 3);
  });

  test("I9: a reload takes new documents that verify, and keeps the old ones when they do not", async () => {
    const hup = async (words: string) => {
      const line = service.said(words);
      service.child.kill("SIGHUP");
      return line;
    };
    const policy = made.json("verifier/appraisal.json");
    writeFileSync(at("verifier/appraisal.json"), JSON.stringify({ ...policy, name: "stricter", releases: [] }));
    expect(await hup("reloaded")).toContain("policy stricter");
    expect((await push("--once", "--json")).code).toBe(1);
    expect(await machineNow()).toMatchObject({ state: "contraindicated" });
    writeFileSync(at("verifier/appraisal.json"), "{}");
    expect(await hup("kept what was in force")).toContain("appraisal.json");
    expect((await push("--once")).code).toBe(1);
    writeFileSync(at("verifier/appraisal.json"), JSON.stringify(policy));
    const release = made.text("verifier/references/first.json");
    writeFileSync(at("verifier/references/first.json"), release.replace(/.(?="\}[^"]*$)/, "x"));
    expect(await hup("kept what was in force")).toContain("first.json");
    writeFileSync(at("verifier/references/first.json"), release);
    await hup("reloaded");
    expect((await push("--once")).code).toBe(0);
  });

  test("I11: killed without warning it loses nothing that it acknowledged", async () => {
    const acknowledged = await machineNow();
    service.child.kill("SIGKILL");
    await service.ended;
    service = await serve();
    expect(await machineNow()).toEqual(acknowledged);
    expect((await push("--once")).code).toBe(0);
  });

  test("told to end it takes nothing new, ends what runs, and exits with 0", async () => {
    const half = connect(at("verifier/socket"));
    let answered = "";
    half.on("data", (chunk) => {
      answered += chunk;
    });
    await once(half, "connect");
    const body = '{"machine":"vm-1"}';
    half.write(
      `POST /v1/challenges HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body.slice(0, 5)}`,
    );
    await new Promise((settle) => setTimeout(settle, 200)); // so that the request has begun there
    service.child.kill("SIGTERM");
    await expect(async () => {
      for (;;) await get("/healthz");
    }).rejects.toThrow();
    half.write(body.slice(5));
    await once(half, "close");
    expect(answered).toMatch(/^HTTP\/1\.1 201 /);
    expect(await service.ended).toBe(0);
    expect(readdirSync(at("verifier")).filter((name) => name.endsWith("-wal"))).toEqual([]);
    service = await serve();
  });

  test("nothing secret is in its log, and every line of it has the one format of agent/LOGS.md", async () => {
    const answered = service.said("answered");
    await get("/v1/machines");
    expect(await answered).toMatch(/^INFO verifier: answered .*operation=\w+ status=200 role=viewer /);
    const log = service.log.join("\n");
    for (const name of ["viewer", "operator"]) expect(log).not.toContain(made.text(`verifier/${name}.token`).trim());
    for (const line of service.log) expect(line).toMatch(/^(?:ERROR|WARNING|NOTICE|INFO) verifier: \S/);
  });

  test("what cannot be is one line and an exit code", async () => {
    const push = ["verifier", "push", "--machine", at("machine"), "--name", "vm-1", "--once", "--to"];
    const wrong = await program([...push, "http://192.0.2.1"]);
    expect(wrong).toMatchObject({ code: 3, err: expect.stringMatching(/^ironclaw: service address: expected https/) });
    const nobody = await program([...push, `unix:${at("none")}`]);
    expect(nobody).toMatchObject({ code: 4, err: expect.stringContaining("ERR_SERVICE_UNREACHABLE") });
    const second = await program(["verifier", "serve", "--config", at("none.json")]);
    expect(second.code).toBe(4);
    expect(readFileSync(join(at("verifier"), "verifier.db")).length).toBeGreaterThan(0);
  });
});
