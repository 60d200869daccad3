import { connect } from "node:net";

/** How long the server may stay silent before a replay counts as over, in milliseconds. */
const SILENCE = 3_000;
const MAX_ANSWER = 1 << 20;

/**
 * Send recorded request frames to a scope's socket, one answer awaited after each, and return every answer.
 * What a scoped caller may do and a stranger may not is shown best with the very same bytes.
 */
export async function replayFrames(socketPath: string, frames: readonly Uint8Array[]): Promise<Uint8Array[]> {
  const socket = connect(socketPath);
  const answers: Uint8Array[] = [];
  try {
    await new Promise<void>((resolve, reject) => socket.once("connect", resolve).once("error", reject));
    for (const [index, frame] of frames.entries()) {
      socket.write(frame);
      answers.push(await readAnswer(socket, index === 0));
    }
    return answers;
  } finally {
    socket.destroy();
  }
}

/** The version byte is answered by one byte, a request by one frame: u32 code, options length and body length. */
function readAnswer(socket: import("node:net").Socket, isVersion: boolean): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    let received = Buffer.alloc(0);
    const settle = (finish: () => void) => {
      clearTimeout(timer);
      socket.off("data", onData).off("error", onError).off("close", onClose);
      finish();
    };
    const onData = (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      if (received.length > MAX_ANSWER) settle(() => reject(new Error("answer: longer than 1 MiB")));
      else if (isComplete(received, isVersion)) settle(() => resolve(received));
    };
    const onError = (error: Error) => settle(() => reject(error));
    const onClose = () => settle(() => reject(new Error("connection closed by the server")));
    const timer = setTimeout(() => settle(() => reject(new Error("no answer in time"))), SILENCE * 10);
    socket.on("data", onData).on("error", onError).on("close", onClose);
  });
}

function isComplete(bytes: Buffer, isVersion: boolean): boolean {
  if (isVersion) return bytes.length >= 1;
  return bytes.length >= 12 && bytes.length >= 12 + bytes.readUInt32BE(4) + bytes.readUInt32BE(8);
}
