import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { type ControlClient, openControl } from "../../vm-images/control-client.ts";
import { AgentError } from "../errors.ts";
import type { CommandOption } from "./command.ts";

export const MACHINE_OPTION: CommandOption = {
  type: "string",
  value: "DIR",
  help: "the running machine's directory of port sockets",
  required: true,
};

/** Asks the machine of `--machine`, and lets go of it. @throws as `openMachine`, and what the machine answers */
export async function withMachine<T>(directory: string, ask: (control: ControlClient) => Promise<T>): Promise<T> {
  const control = await openMachine(directory);
  try {
    return await ask(control);
  } finally {
    control.close();
  }
}

/** @throws AgentError ERR_ENVIRONMENT when the machine is not running */
export async function openMachine(directory: string): Promise<ControlClient> {
  const control = await openPort(join(directory, "ironclaw.control.sock"));
  try {
    return openControl({ control, report: await openPort(join(directory, "ironclaw.report.sock")) });
  } catch (error) {
    control.destroy();
    throw error;
  }
}

function openPort(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path, () => resolve(socket));
    socket.once("error", (cause) =>
      reject(
        new AgentError("ERR_ENVIRONMENT", `port ${path}`, {
          expected: "a running machine",
          got: "no listener",
          hint: "`npm start -- --stay` keeps a machine up and says where its directory is",
          cause,
        }),
      ),
    );
  });
}
