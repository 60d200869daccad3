import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { turnAway } from "../../agent/scopes/turn-away.ts";
import { native } from "../support/shim-fixture.ts";

const directory = mkdtempSync(join(tmpdir(), "turn-away-"));
afterAll(() => rmSync(directory, { recursive: true }));

it("I6: whoever connects to an inherited socket of a refused launch is turned away, who waited there before it too", async () => {
  const paths = ["one", "two"].map((name) => join(directory, `${name}.sock`));
  const fds = paths.map((path) => native().listen(path));
  const ended = paths.map(async (path) => {
    const socket = connect(path);
    await once(socket, "close");
    return socket.bytesRead;
  });
  turnAway(native(), new Map(fds.map((fd, index) => [`scope-${index}`, fd])));
  expect(await Promise.all(ended)).toEqual([0, 0]);
  const late = connect(paths[0] ?? "");
  await once(late, "close");
  expect(late.bytesRead).toBe(0);
});
