// Runs in the guest, as root, under the image's own Node: sends raw commands to the TPM and gives its raw answers.
// Hexadecimal texts, as a JSON list on standard input and on standard output.
import { openSync, readFileSync, readSync, writeSync } from "node:fs";

const commands: readonly string[] = JSON.parse(readFileSync(0, "utf8"));
const tpm = openSync("/dev/tpmrm0", "r+");
const answers = commands.map((command) => {
  const answer = Buffer.alloc(4096);
  writeSync(tpm, Buffer.from(command, "hex"));
  return answer.toString("hex", 0, readSync(tpm, answer));
});
process.stdout.write(JSON.stringify(answers));
