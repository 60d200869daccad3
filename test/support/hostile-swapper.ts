import { closeSync, openSync, readFileSync, renameSync, writeFileSync, writeSync } from "node:fs";

// Arguments: three paths for each file, the file and two contents for it. Exchanges them for ever: written over in place, in pieces, and
// replaced as a whole by another file. Ends with the process that started it, which holds its standard input.

const PIECE = 64 * 1024;

function writeOver(path: string, content: Uint8Array): void {
  const fd = openSync(path, "r+");
  for (let at = 0; at < content.length; at += PIECE)
    writeSync(fd, content, at, Math.min(PIECE, content.length - at), at);
  closeSync(fd);
}

function replace(path: string, content: Uint8Array): void {
  writeFileSync(`${path}.next`, content);
  renameSync(`${path}.next`, path);
}

const paths = process.argv.slice(2);
const files = Array.from({ length: Math.floor(paths.length / 3) }, (_, index) => {
  const [path = "", first = "", second = ""] = paths.slice(3 * index, 3 * index + 3);
  return { path, contents: [readFileSync(first), readFileSync(second)] as const };
});

let turn = 0;
function swap(): void {
  for (const [index, { path, contents }] of files.entries()) {
    // each file in its own rhythm, so that every mixture occurs
    const content = (turn >> index) & 1 ? contents[0] : contents[1];
    if (turn % 5 < 3) writeOver(path, content);
    else replace(path, content);
  }
  turn += 1;
  setImmediate(swap);
}

process.stdin.on("end", () => process.exit(0)).resume();
swap();
