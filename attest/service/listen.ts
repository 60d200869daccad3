import { once } from "node:events";
import { lstat, rm } from "node:fs/promises";
import { type AddressInfo, connect } from "node:net";
import type { FastifyInstance } from "fastify";
import type { VerifierConfig } from "./config.ts";
import { ServiceError } from "./errors.ts";

/** Opens the service to others and resolves with its address. @throws ServiceError `ERR_SERVICE_LISTEN` */
export async function listen(
  app: FastifyInstance,
  to: VerifierConfig["listen"],
  at: (path: string) => string,
): Promise<string> {
  try {
    if ("unix" in to) {
      await removeStaleSocket(at(to.unix));
      await app.listen({ path: at(to.unix) });
      return `unix:${at(to.unix)}`;
    }
    await app.listen({ host: to.host, port: to.port });
  } catch (cause) {
    if (cause instanceof ServiceError) throw cause;
    const expected = "unix" in to ? "a new socket" : `${to.host} port ${to.port} to listen at`;
    throw new ServiceError("ERR_SERVICE_LISTEN", "listen", { expected, got: codeOf(cause), cause });
  }
  const { address, port, family } = app.server.address() as AddressInfo; // of a TCP server
  return `${family === "IPv6" ? `[${address}]` : address}:${port}`;
}

/**
 * Takes away a socket that an ended service left behind, and nothing else: a file that somebody named by mistake stays, and so does the socket of
 * a program that runs. @throws ServiceError `ERR_SERVICE_LISTEN`
 */
async function removeStaleSocket(path: string): Promise<void> {
  const found = await lstat(path).catch((cause: unknown) => {
    if (codeOf(cause) === "ENOENT") return null;
    throw cause;
  });
  if (found === null) return;
  if (!found.isSocket()) throw taken(path, "something else", "move it away, or name another path in listen.unix");
  const answer = await connectTo(path);
  if (answer !== "ECONNREFUSED")
    throw taken(
      path,
      answer === null ? "a socket at which a program listens" : answer,
      "is a service running already?",
    );
  await rm(path);
}

/** `null` when somebody listens there; the code of the failure otherwise. */
async function connectTo(path: string): Promise<string | null> {
  const socket = connect(path);
  try {
    await once(socket, "connect");
    return null;
  } catch (cause) {
    return codeOf(cause);
  } finally {
    socket.destroy();
  }
}

function taken(path: string, got: string, hint: string): ServiceError {
  const expected = "nothing there, or a socket at which nobody listens";
  return new ServiceError("ERR_SERVICE_LISTEN", `listen ${path}`, { expected, got, hint });
}

function codeOf(cause: unknown): string {
  return cause instanceof Error && "code" in cause ? String(cause.code) : "a failure";
}
