// Writes to one store, under the orders that it is given, each in a directory of its own. Arguments: the store's name, a root directory, orders
// ("INDEX/ACT", see native/fail-calls.c). Tells on descriptor 3, between the lines of the preloaded library: "acknowledged JSON" and "ended JSON".
import { openSync, writeSync } from "node:fs";
import { IronclawError } from "../../policy/index.ts";
import { type FaultStore, makePlace, STORES, type StoreName } from "./stores.ts";

const [name, root = "", ...orders] = process.argv.slice(2);
const store: FaultStore = STORES[name as StoreName];
const tell = (what: string, value: unknown) => writeSync(3, `${what} ${JSON.stringify(value)}\n`);

/** The library takes it, and no file is ever there. */
function order(text: string): void {
  try {
    openSync(`/fault/${text}`, "r");
  } catch {}
}

async function main(): Promise<void> {
  for (const [number, text] of orders.entries()) {
    const place = makePlace(root, `${number}`);
    await store.prepare?.(place);
    order(text);
    try {
      await store.write(place, (what, kept = "durable") => tell("acknowledged", { what, kept }));
      tell("ended", { code: null });
    } catch (error) {
      const typed = error instanceof IronclawError;
      tell("ended", { code: typed ? error.code : "none", text: String(error) });
    }
    order("-1/none");
  }
}

void main();
