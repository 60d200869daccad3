import { chmodSync, existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { insertPivCards, type PivCards } from "./piv-card.ts";
import { makeDirectory, type PairBench, startDaemon } from "./relay-pair.ts";

export interface CardService {
  readonly cards: PivCards;
  /** pcscd's socket on this machine. */
  readonly socket: string;
  /** Directory of the card's keys: piv-rsa.der and piv-ec.der are the certificates. */
  readonly keys: string;
  stop(): Promise<void>;
}

/**
 * Debian's pcscd with a virtual reader that holds a card. The path of pcscd's socket is built into it, so it gets a mount
 * namespace with a /run of its own, whose /run/pcscd is a directory of the bench's.
 */
export async function startCardService(bench: PairBench, pin: string): Promise<CardService> {
  const [run, readers, keys] = ["pcscd", "readers", "card"].map((name) => makeDirectory(bench, name));
  if (run === undefined || readers === undefined || keys === undefined) throw new Error("directories");
  const cards = await insertPivCards(keys, pin);
  const reader = {
    FRIENDLYNAME: '"Virtual PCD"',
    DEVICENAME: `localhost:${cards.port}`,
    LIBPATH: "/usr/lib/pcsc/drivers/serial/libifdvpcd.so",
    CHANNELID: `${cards.port}`,
  };
  const lines = Object.entries(reader).map(([name, value]) => `${name} ${value}\n`);
  writeFileSync(join(readers, "vpcd"), lines.join(""));
  const script = 'mount -t tmpfs run /run && mkdir /run/pcscd && mount --bind "$1" /run/pcscd && exec pcscd -f -c "$2"';
  const user = process.getuid?.() === 0 ? [] : ["--user", "--map-root-user"];
  const socket = join(run, "pcscd.comm");
  const daemon = await startDaemon(["unshare", ...user, "--mount", "sh", "-c", script, "sh", run, readers], {}, () =>
    existsSync(socket),
  );
  chmodSync(run, 0o755);
  return {
    ...{ cards, socket, keys },
    stop: async () => {
      await daemon.stop();
      cards.close();
    },
  };
}
