import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { type CelRecord, type PcrBank, parseEvidence, parseFirmwareLog, replayCel } from "../../attest/index.ts";
import { preUnsealKinds, toHex } from "../../policy/index.ts";
import { openTpm } from "../../seal/index.ts";
import { attest } from "../../vm-images/story/verifier.ts";
import { startSwtpm } from "../../vm-images/swtpm.ts";
import { AGENT_UID, type Dev, type DevMachine, guestProgram, processesOf } from "./dev-machine.ts";
import { tryUnseal } from "./seal-fixture.ts";

const TPM_RC_POLICY_FAIL = "0x0000099d";
const TPM_RC_LOCALITY = 0x907;

interface Bytes {
  readonly sha256: Uint8Array;
  readonly sha384: Uint8Array;
}

/** TPM 2.0 Library, part 3: the command with one handle, an empty password, and these parameters. */
function commandOn(code: number, handle: number, parameters: Uint8Array = new Uint8Array()): string {
  const command = Buffer.alloc(27);
  command.writeUInt16BE(0x8002); // TPM_ST_SESSIONS
  command.writeUInt32BE(27 + parameters.length, 2);
  command.writeUInt32BE(code, 6);
  command.writeUInt32BE(handle, 10);
  command.writeUInt32BE(9, 14);
  command.writeUInt32BE(0x40000009, 18); // TPM_RS_PW
  return command.toString("hex") + toHex(parameters);
}

function extendCommand(pcr: number, { sha256, sha384 }: Bytes): string {
  const head = (algorithm: number) => Uint8Array.of(0, algorithm);
  const digests = [Uint8Array.of(0, 0, 0, 2), head(0x0b), sha256, head(0x0c), sha384];
  return commandOn(0x182, pcr, Buffer.concat(digests)); // TPM2_PCR_Extend
}

async function sendToTpm({ shell }: DevMachine, commands: readonly string[]): Promise<number[]> {
  const answers = (await shell.program(guestProgram("guest-tpm.ts"), commands)) as string[];
  return answers.map((answer) => Number.parseInt(answer.slice(12, 20), 16));
}

/** What was measured before the agent asked for the PIN. */
const launchRecords = ({ agentLog }: DevMachine) =>
  agentLog.filter(({ event }) => (preUnsealKinds as readonly string[]).includes(event.kind));

/** Ends the machine. */
export function describeGuestRoot(dev: Dev): void {
  describe("guest root, once the launch has ended", () => {
    /** The unsealer as the agent runs it; what it would write to its sink is counted. */
    async function unsealAsRoot(): Promise<{ answer: unknown; code: string; released: string }> {
      await dev().shell.put("/tmp/request", dev().request);
      const unsealer = "/usr/lib/ironclaw/unsealer device:/dev/tpmrm0";
      const released = await dev().shell.output(
        `{ ${unsealer} </tmp/request 3>&1 1>/tmp/answer 2>/dev/null; echo $? >/tmp/code; } | wc -c`,
      );
      return {
        answer: JSON.parse(await dev().shell.output("cat /tmp/answer")),
        code: await dev().shell.output("cat /tmp/code"),
        released: released.trim(),
      };
    }

    async function expectRefusal(): Promise<void> {
      const { answer, code, released } = await unsealAsRoot();
      expect(answer).toMatchObject({
        kind: "refused",
        answers: expect.arrayContaining([expect.objectContaining({ command: "TPM2_Unseal", rc: TPM_RC_POLICY_FAIL })]),
      });
      expect([code, released]).toEqual(["1", "0"]);
    }

    it("I3: asks with the genuine request, and the TPM refuses", async () => {
      await expectRefusal();
    });

    it("I3: extends the agent PCR again with the published event digests, and the TPM still refuses", async () => {
      expect(launchRecords(dev()).length).toBeGreaterThan(8);
      const codes = await sendToTpm(
        dev(),
        launchRecords(dev()).map(({ digests }) => extendCommand(13, digests)),
      );
      expect(new Set(codes)).toEqual(new Set([0])); // each extend was carried out
      await expectRefusal();
    });

    it("I3: cannot reset the agent PCR", async () => {
      expect(await sendToTpm(dev(), [commandOn(0x13d, 13)])).toEqual([TPM_RC_LOCALITY]); // TPM2_PCR_Reset
    });

    it("I9: who changes the agent PCR behind the agent's back gets no report that verifies", async () => {
      await expect(attest(dev().running.control, dev().enrolment, dev().stage.machine)).rejects.toMatchObject({
        code: "ERR_EVIDENCE_REFUSED",
      });
    });

    it("I3: kills the agent, and the spawner caps the agent PCR and ends the machine", async () => {
      const [agent] = await processesOf(dev(), AGENT_UID);
      dev().shell.send(`kill -9 ${agent}`);
      expect((await dev().running.vm.exited).code).toBe(0);
      const log = await readFile(dev().running.vm.consoleLog, "latin1");
      expect(log).toMatch(/the agent (ended \(wait status 0x9\)|closed its socket); agent PCR capped, rebooting/);
      await dev().running.stop();
    });
  });
}

/** Where nothing but the TPM's state is left of the machine. */
export function describeReplay(dev: Dev): void {
  describe("the same TPM, after the machine", () => {
    /** Power cycle the TPM, extend what the report's logs say up to the unsealing, then `further`, and ask with the same request. */
    async function replayAndUnseal(further: readonly CelRecord[]) {
      const socket = join(dev().directory, "replay.sock");
      await using _running = await startSwtpm({ directory: dev().stage.tpm.directory, socket, user: "tcti" });
      const tcti = `swtpm:path=${socket}`;
      const tpm = await openTpm({ tcti });
      try {
        for (const { pcr, digests } of firmwareExtends()) await tpm.pcrExtend(pcr, digests);
        for (const { digests } of [...launchRecords(dev()), ...further]) await tpm.pcrExtend(13, digests);
      } finally {
        await tpm[Symbol.asyncDispose]();
      }
      const { answer, received } = await tryUnseal({ tcti, request: dev().request });
      return { answer, pin: received[0] };
    }

    function firmwareExtends(): { pcr: number; digests: Bytes }[] {
      const { events } = parseFirmwareLog(parseEvidence(dev().verdict.report).firmwareLog);
      const NO_ACTION = 3; // EV_NO_ACTION is told, not extended
      return events
        .filter(({ type }) => type !== NO_ACTION)
        .map(({ pcr, digests }) => {
          const [sha256, sha384] = [digests.get(0x0b), digests.get(0x0c)];
          if (sha256 === undefined || sha384 === undefined) throw new Error(`PCR ${pcr}: no digest`);
          return { pcr, digests: { sha256, sha384 } };
        });
    }

    it("I2: gives the PIN for that very request when it has measured what the logs say, so the request was genuine", async () => {
      const bank: PcrBank = "sha256";
      expect(toHex(replayCel(launchRecords(dev()), bank))).toBe(dev().release.pcrs[bank]["13"]);
      const { answer, pin } = await replayAndUnseal([]);
      expect(answer.kind).toBe("released");
      const expected = Buffer.concat([Uint8Array.of(0, dev().stage.machine.pin.length), dev().stage.machine.pin]);
      expect(Buffer.compare(pin ?? new Uint8Array(), expected)).toBe(0);
    });

    it("I3: refuses that very request for the cap alone", async () => {
      const caps = dev().agentLog.filter(({ event }) => event.kind === "cap");
      expect(caps.map(({ event }) => event.name)).toEqual(["serving"]);
      const { answer, pin } = await replayAndUnseal(caps);
      expect(answer.kind).toBe("refused");
      expect(pin).toHaveLength(0);
    });
  });
}
