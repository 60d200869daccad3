// Both doors in a PID namespace in which whoever runs this gives out the numbers. Messages: a Reuse, and its Outcome.
import { once } from "node:events";
import { chmodSync } from "node:fs";
import { dirname } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { type BrokerFixture, startBroker } from "./broker-fixture.ts";
import type { Outcome, Reuse } from "./reused-pid.ts";
import { finished, realIdentity, startAct, WORKLOAD_UID, type Workload } from "./socket-workload.ts";

/** Milliseconds in which a refusal is in the log after its connection has ended. */
const RECORDED = 5000;

const [path = "", exe = "", other = ""] = process.argv.slice(2);
/** The scope's caller runs this. */
const allowed = { path, exe: exe as Workload["exe"] };

async function run({ when, door, connector, next }: Reuse): Promise<Outcome> {
  const programs = { allowed: allowed.path, other };
  const looking = Promise.withResolvers<void>();
  const replaced = Promise.withResolvers<void>();
  if (when !== "looked") replaced.resolve();
  const broker = await startBroker({
    identify: realIdentity(() => {
      looking.resolve();
      return replaced.promise;
    }),
    change: (document) => {
      document.callers["release-signer"] = { uid: WORKLOAD_UID, exe: [allowed.exe], unit: null };
    },
  });
  const socket = broker.socket("release-signing");
  chmodSync(dirname(socket), 0o755);
  const act = [when, door, socket, programs[connector], programs[next], `${WORKLOAD_UID}`, `${process.pid}`];
  const helper = startAct(other, act, "root");
  helper.stderr.pipe(process.stderr);
  if (when === "looked") {
    void looking.promise.then(() => helper.stdin.write("x"));
    helper.stdin.once("close", replaced.resolve);
  }
  const exited = once(helper, "exit");
  const answered = (await finished(helper)).length;
  const [status] = await exited;
  const records = await refusals(broker, answered === 0 ? RECORDED : 0);
  await broker.close();
  return { answered, signed: broker.requests.length, records, status };
}

async function refusals(broker: BrokerFixture, milliseconds: number): Promise<string[]> {
  const last = Date.now() + milliseconds;
  while (broker.records().length === 0 && Date.now() < last) await delay(5);
  return broker.records().map(({ step, decision, reason }) => `${decision} ${step} ${reason}`);
}

process.on("message", async (reuse: Reuse) => process.send?.(await run(reuse)));
process.on("disconnect", () => process.exit());
