import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { CAPABILITY, HANDLE_RANGE, PROPERTY, Tpm } from "node-tpm2-tss";
import { describe, expect, test } from "vitest";
import { fromHex } from "../../../policy/index.ts";
import { isListening } from "../../../vm-images/listening.ts";
import { fileTpm, nativeDirectory, refusal, u8, u16 } from "./fixture.ts";

const open = fileTpm({ endorsement: "keys" });

describe("capabilities, random numbers, the clock", () => {
  test("capabilities list the persistent EKs, the active banks and the properties", async () => {
    await using tpm = await open();
    expect(await tpm.handles(HANDLE_RANGE.persistent)).toEqual([0x81010001, 0x81010016]);
    const active = (await tpm.pcrBanks()).filter(({ pcrs }) => pcrs.length === 24).map(({ bank }) => bank);
    expect(active).toEqual(["sha256", "sha384"]);
    expect(await tpm.properties(PROPERTY.manufacturer, 1)).toEqual(new Map([[PROPERTY.manufacturer, 0x49424d00]]));
    const fixed = await tpm.properties(0x100, 64);
    for (const name of [
      "vendorString1",
      "vendorString4",
      "firmwareVersion1",
      "firmwareVersion2",
      "nvBufferMax",
    ] as const) {
      expect(fixed.has(PROPERTY[name]), name).toBe(true);
    }
    const variable = await tpm.properties(0x200, 64);
    for (const name of ["permanent", "startupClear", "maxAuthFail", "lockoutInterval", "lockoutRecovery"] as const) {
      expect(variable.has(PROPERTY[name]), name).toBe(true);
    }
  });

  test("GetCapability gives the raw bytes, and whether there is more; an unknown capability is refused", async () => {
    await using tpm = await open();
    const { more, data } = await tpm.getCapability(CAPABILITY.tpmProperties, 0x100, 2);
    expect([more, data.length]).toEqual([true, 4 + 4 + 2 * 8]);
    expect(await refusal(tpm.getCapability(0x99, 0, 1))).toBe("tpm GetCapability 0x1c4");
    await expect(tpm.getCapability(-1, 0, 1)).rejects.toThrow(TypeError);
  });

  test("as many random bytes as asked for; a count out of range is a TypeError", async () => {
    await using tpm = await open();
    for (const count of [0, 1, 48, 1000]) expect((await tpm.getRandom(count)).length).toBe(count);
    for (const wrong of [-1, 65536, 1.5]) await expect(tpm.getRandom(wrong)).rejects.toThrow(TypeError);
    await using session = await tpm.startAuthSession({ kind: "policy" });
    expect(await refusal(tpm.getRandom(1, { sessions: [session] }))).toMatch(/^tpm GetRandom 0x982$/);
  });

  test("the clock runs, and its raw bytes are those of the values", async () => {
    await using tpm = await open();
    const first = await tpm.readClock();
    const second = await tpm.readClock();
    expect(second.clock).toBeGreaterThanOrEqual(first.clock);
    expect(first.raw.length).toBe(25);
    expect(new DataView(first.raw.buffer, first.raw.byteOffset).getBigUint64(0)).toBe(first.time);
    expect([first.safe, first.restartCount, second.resetCount]).toEqual([true, 0, first.resetCount]);
  });

  test("TestParms accepts RSA-2048, and refuses RSA-1000 and what is no TPMT_PUBLIC_PARMS", async () => {
    await using tpm = await open();
    const rsa = (bits: number) => fromHex(`000100100010${Buffer.from(u16(bits)).toString("hex")}00000000`);
    await tpm.testParms(rsa(2048));
    expect(await refusal(tpm.testParms(rsa(1000)))).toBe("tpm TestParms 0x1c4");
    expect(await refusal(tpm.testParms(u8(1)))).toMatch(/^mu TestParms /);
  });
});

/** A TPM that nobody has started yet; `powerCycle` cuts its power, and leaves it like that again. */
async function unstartedTpm() {
  const directory = await mkdtemp(join(tmpdir(), "ironclaw-tss-"));
  const socket = join(directory, "sock");
  const powerOn = async () => {
    const channels = ["--server", `type=unixio,path=${socket}`, "--ctrl", `type=unixio,path=${socket}.ctrl`];
    const options = ["socket", "--tpm2", "--tpmstate", `dir=${directory}`, "--flags", "not-need-init", ...channels];
    const child = spawn("swtpm", options, { stdio: "ignore" });
    while (!(await isListening(socket))) {
      if (child.exitCode !== null) throw new Error(`swtpm ended with ${child.exitCode}`);
      await delay(5);
    }
    return async () => {
      child.kill("SIGKILL");
      await once(child, "exit");
      await Promise.all([socket, `${socket}.ctrl`].map((path) => rm(path, { force: true })));
    };
  };
  let powerOff = await powerOn();
  return {
    tcti: `swtpm:path=${socket}`,
    powerCycle: async () => {
      await powerOff();
      powerOff = await powerOn();
    },
    [Symbol.asyncDispose]: async () => {
      await powerOff();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

test("before Startup the TPM refuses; after Shutdown(state), Startup(state) resumes with its PCRs", async () => {
  await using machine = await unstartedTpm();
  const selection = [{ bank: "sha256", pcrs: [13] }] as const;
  const extended = await (async () => {
    await using tpm = await Tpm.open({ tcti: machine.tcti, nativeDirectory });
    expect(await refusal(tpm.startup("state"))).toBe("tpm Startup 0x1c4");
    for (const act of [
      tpm.getRandom(1),
      tpm.readClock(),
      tpm.pcrRead(selection),
      tpm.shutdown("clear"),
      tpm.startAuthSession({ kind: "hmac" }),
    ]) {
      expect(await refusal(act)).toMatch(/ 0x100$/);
    }
    await tpm.startup("clear");
    await tpm.startup("clear"); // changes nothing
    await tpm.pcrExtend(13, new Map([["sha256", new Uint8Array(32).fill(7)] as const]));
    const value = (await tpm.pcrRead(selection)).get("sha256")?.get(13);
    await tpm.shutdown("state");
    return value;
  })();
  await machine.powerCycle();
  await using tpm = await Tpm.open({ tcti: machine.tcti, nativeDirectory });
  await tpm.startup("state");
  expect((await tpm.pcrRead(selection)).get("sha256")?.get(13)).toEqual(extended);
  expect((await tpm.readClock()).restartCount).toBe(1);
});
