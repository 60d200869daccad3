import { connect, type Socket } from "node:net";
import { untilAborted } from "./abort.ts";
import { ClientError } from "./errors.ts";

/** @throws ClientError `ERR_CLIENT_UNREACHABLE` */
export function dial(path: string, signal?: AbortSignal): Promise<Socket> {
  const socket = connect(path);
  const ready = new Promise<Socket>((resolve, reject) => {
    socket.once("connect", () => resolve(socket));
    socket.once("error", (cause) => reject(unreachable(path, cause)));
  });
  return untilAborted(ready, signal).catch((error) => {
    socket.destroy();
    throw error;
  });
}

export function unreachable(path: string, cause: Error): ClientError {
  return new ClientError("ERR_CLIENT_UNREACHABLE", `agent socket ${path}: nobody answers`, cause);
}
