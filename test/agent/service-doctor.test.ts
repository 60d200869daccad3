import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { openServiceBench, type ServiceBench } from "../support/service-fixture.ts";

let service: ServiceBench;
beforeAll(async () => {
  service = await openServiceBench();
});
afterAll(() => service[Symbol.asyncDispose]());
afterEach(() => service.stopAll());

test("x", async () => {
  const agent = await service.start();
  await agent.launched();
  const t = Date.now();
  console.log(JSON.stringify(await agent.ask({ op: "doctor" }), null, 1), Date.now() - t);
  expect(1).toBe(1);
});
