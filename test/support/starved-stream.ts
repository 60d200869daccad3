import { fstatSync, readSync } from "node:fs";
import { native } from "./shim-fixture.ts";

// A stream for which there is no memory, and one that the kernel does not watch (starved.c). One line of JSON; then it ends by itself.

const addon = native();
const [near, far] = addon.socketPair("stream");

function said(act: () => unknown): string {
  try {
    act();
    return "done";
  } catch (error) {
    return error instanceof Error ? error.message : "unknown";
  }
}

const opened = said(() => addon.openStream(near));
const isKept = fstatSync(near).isSocket();
const stream = addon.openStream(near);
const started = said(() => stream.start(() => undefined));
const left = readSync(far, new Uint8Array(1));
console.log(JSON.stringify({ opened, isKept, started, left }));
