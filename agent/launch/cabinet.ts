import { closeSync, constants, openSync, readSync } from "node:fs";
import { reasonFrom } from "../../attest/index.ts";
import { type Cabinet, openCabinet } from "../../policy/index.ts";
import type { StoreContent } from "../../seal/index.ts";
import { AgentError } from "../errors.ts";
import { reasonOf } from "../system-reason.ts";
import { type ReadInputs, readInputs } from "./inputs.ts";

/** For a launch: what is wrong with the cabinet as a whole is a reason too. */
export async function readCabinetInputs(path: string, store: StoreContent): Promise<ReadInputs> {
  try {
    return await withCabinet(path, (cabinet) => readInputs(cabinet, store));
  } catch (error) {
    return { partial: {}, reasons: [reasonFrom(error, "cabinet")] };
  }
}

/**
 * The cabinet is host-writable: it is read through the raw device, and nothing on it is mounted.
 * @throws AgentError ERR_CABINET_UNREADABLE, PolicyError for a damaged header
 */
export async function withCabinet<T>(path: string, use: (cabinet: Cabinet) => Promise<T>): Promise<T> {
  const attempt = (act: () => number): number => {
    try {
      return act();
    } catch (cause) {
      throw unreadable(path, cause);
    }
  };
  // A pipe is not waited for.
  const device = attempt(() => openSync(path, constants.O_RDONLY | constants.O_NONBLOCK));
  try {
    const cabinet = openCabinet((offset, length) => {
      const bytes = new Uint8Array(length);
      return bytes.subarray(
        0,
        attempt(() => readSync(device, bytes, 0, length, offset)),
      );
    });
    return await use(cabinet);
  } finally {
    closeSync(device);
  }
}

function unreadable(path: string, cause: unknown): AgentError {
  return new AgentError("ERR_CABINET_UNREADABLE", `cabinet ${path}`, {
    expected: "a file or partition that can be read",
    got: reasonOf(cause),
    hint: "attach the cabinet's disk, and let the agent's user read it",
    cause,
  });
}
