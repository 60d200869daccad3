import { spawn } from "node:child_process";
import { once } from "node:events";
import { ImageError } from "./errors.ts";

/**
 * Do something that only one process may do in a folder at a time; others wait for it. The kernel's lock on the folder (flock(2)) is held by
 * a program that ends with this process, however that ends, and leaves nothing behind.
 * @param directory exists
 * @param onWait called once if somebody else is at it
 * @throws ImageError ERR_IMAGE_TOOL without util-linux's flock, ERR_IMAGE_PLACE for a folder that cannot be locked
 */
export async function exclusively<T>(directory: string, work: () => Promise<T>, onWait?: () => void): Promise<T> {
  const release = (await lock(directory, ["--nonblock"])) ?? (await waitFor(directory, onWait));
  try {
    return await work();
  } finally {
    await release();
  }
}

type Release = () => Promise<void>;

async function waitFor(directory: string, onWait?: () => void): Promise<Release> {
  onWait?.();
  const release = await lock(directory, []);
  if (release === undefined) throw new ImageError("ERR_IMAGE_PLACE", `${directory}: cannot be locked`);
  return release;
}

/** What flock(1) says of a lock that somebody else has, `--nonblock` given. */
const TAKEN = 1;

/** The folder by its own entry: by its name flock(1) would make a file where there is none. @returns `undefined` where somebody else has it */
async function lock(directory: string, options: readonly string[]): Promise<Release | undefined> {
  const args = [...options, `${directory}/.`, "-c", "echo && exec cat >/dev/null"];
  const holder = spawn("flock", args, { stdio: ["pipe", "pipe", "pipe"] });
  const text: Buffer[] = [];
  holder.stderr.on("data", (bytes: Buffer) => text.push(bytes));
  const ended = once(holder, "close").catch((cause: NodeJS.ErrnoException) => {
    throw new ImageError("ERR_IMAGE_TOOL", `flock: ${cause.message}`, {
      hint: "install the Debian package util-linux",
    });
  });
  const held = once(holder.stdout, "data").then(() => true);
  if ((await Promise.race([held, ended])) === true) {
    return async () => {
      holder.stdin.end();
      await ended;
    };
  }
  if (holder.exitCode === TAKEN && text.length === 0) return undefined;
  throw new ImageError("ERR_IMAGE_PLACE", `${directory}: ${Buffer.concat(text).toString().trim()}`);
}
