import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { ApprovingService } from "../../agent/control/approving.ts";
import { answerControlLine, type ControlService } from "../../agent/control/control.ts";

export interface ApprovalMachine extends AsyncDisposable {
  /** The directory of its port sockets. */
  readonly directory: string;
  /** Whatever else its control port should answer: tests make it a liar. */
  answer: (line: string) => Promise<string>;
}

/** A running machine of which only the approvals answer, by the real control protocol. */
export async function startApprovalMachine(approvals: ApprovingService): Promise<ApprovalMachine> {
  const directory = mkdtempSync(join(tmpdir(), "ironclaw-approval-"));
  const absent = () => Promise.reject(new Error("not this machine"));
  const service: ControlService = {
    ...{
      approvals: () => approvals,
      status: absent,
      metrics: absent,
      endorsement: absent,
      activate: absent,
      challenge: absent,
      audit: absent,
      doctor: absent,
    },
    sessions: { list: () => ({ sessions: [], more: 0 }), end: absent },
    sealing: { check: absent, records: absent, reseal: absent, abortReseal: absent, order: absent, own: absent },
    restrictions: { freeze: absent, status: absent, narrow: absent },
  };
  const servers: Server[] = [];
  const machine: ApprovalMachine = {
    directory,
    answer: (line) => answerControlLine(service, line),
    [Symbol.asyncDispose]: async () => {
      for (const server of servers) server.close();
      rmSync(directory, { recursive: true, force: true });
    },
  };
  for (const port of ["control", "report"]) {
    const server = createServer((socket) => {
      socket.on("error", () => socket.destroy());
      const answer = async (line: string) => void socket.write(`${await machine.answer(line)}\n`);
      createInterface({ input: socket })
        .on("line", (line) => void answer(line))
        .on("error", () => {});
    });
    servers.push(server);
    await new Promise<void>((resolve) => server.listen(join(directory, `ironclaw.${port}.sock`), resolve));
  }
  return machine;
}
