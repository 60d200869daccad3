import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { SHIM_RV } from "../../agent/shim-replies.ts";
import { utf8 } from "../../policy/index.ts";
import { type Bench, native, openBench, rvOf } from "../support/shim-fixture.ts";
import {
  makeTemplateRecorder,
  RECORDER,
  type RecordedShim,
  type TemplateRecorder,
} from "../support/template-recorder.ts";
import { MECHANISM, SHA1_OAEP } from "../support/wrapping.ts";

const RV = {
  ok: 0n,
  generalError: 0x5n,
  fileFailed: 0x6n,
  badArguments: 0x7n,
  notSupported: 0x54n,
  noKey: 0x60n,
  notPermitted: 0x68n,
} as const;
const { slot, one, two, kek } = RECORDER;

let bench: Bench;
let recorder: TemplateRecorder;

beforeAll(() => {
  bench = openBench();
  recorder = makeTemplateRecorder(bench, native());
});

afterAll(() => bench.remove());

/** The state model of SHIM.md, and what the library's record must hold. */
interface Model {
  state: "fresh" | "loaded" | "logged in" | "failed";
  listed: boolean;
  uses: boolean;
  armed: boolean;
  probed: boolean;
  /** Signatures, decryptions and unwrapped keys. */
  operations: number;
}

type Use = "sign" | "decrypt" | "unwrap";
/** After USES as this test gives it. */
const USE_OF: ReadonlyMap<bigint, Use> = new Map([
  [one, "sign"],
  [two, "decrypt"],
  [kek, "unwrap"],
]);

function mayUse(model: Model, handle: bigint, use: Use): bigint {
  if (model.uses) return USE_OF.get(handle) === use ? RV.ok : RV.notPermitted;
  if (!model.listed) return RV.noKey;
  return model.armed ? RV.notPermitted : RV.ok;
}

interface Step {
  readonly name: string;
  /** Whether the model's state is one for it. */
  right(model: Model): boolean;
  /** What it must answer in a right state, by the model, which it moves on. */
  effect(model: Model): bigint;
  /** Nothing is put into the credential channel in a wrong state: an op that read it then would never answer. */
  run(started: RecordedShim, right: boolean): Promise<unknown>;
}

function useStep(use: Use, handle: bigint): Step {
  const key = { slotId: slot, handle };
  const plain = { allowedMechanisms: [], label: "", id: new Uint8Array(0), where: "session", use: "sign" } as const;
  const made = { ...plain, mechanism: MECHANISM.keyWrap, oaep: null, objectClass: "secret", keyType: 0x10n } as const;
  const data = utf8("-data");
  const requests = {
    sign: ({ shim }: RecordedShim) => shim.sign({ ...key, mechanism: 0x40n, pss: null, data }),
    decrypt: ({ shim }: RecordedShim) =>
      shim.decrypt({ ...key, mechanism: MECHANISM.oaep, oaep: SHA1_OAEP, ciphertext: data }),
    unwrap: ({ shim }: RecordedShim) => shim.unwrap({ ...key, ...made, wrapped: data }),
  };
  return {
    name: `${use} with ${handle}`,
    right: isLoggedIn,
    effect: (model) => {
      const rv = mayUse(model, handle, use);
      if (rv === RV.ok) model.operations++;
      return rv;
    },
    run: requests[use],
  };
}

function isLoggedIn({ state }: Model): boolean {
  return state === "logged in";
}
const isFresh = ({ state }: Model) => state === "fresh";
const isLoaded = ({ state }: Model) => state === "loaded";

/** The effect of a step that changes the model and gives this rv. */
function then(change: Partial<Model>, rv: bigint = RV.ok): Step["effect"] {
  return (model) => {
    Object.assign(model, change);
    return rv;
  };
}

const STEPS: readonly Step[] = [
  { name: "PROBE", right: isFresh, effect: then({ probed: true }), run: ({ shim }) => shim.probe() },
  { name: "STATUS", right: () => true, effect: then({}), run: ({ shim }) => shim.status() },
  {
    name: "CREDENTIAL",
    right: isFresh,
    effect: then({}),
    run: ({ shim, give }, right) => {
      if (right) give("a key");
      return shim.credential(join(bench.directory, "records", `file-${crypto.randomUUID()}`));
    },
  },
  {
    name: "CREDENTIAL into nowhere",
    right: isFresh,
    effect: then({ state: "failed" }, RV.fileFailed),
    run: ({ shim, give }, right) => {
      if (right) give("a key");
      return shim.credential("/nowhere/file");
    },
  },
  {
    name: "LOAD of a relative path",
    right: isFresh,
    effect: then({}, RV.badArguments),
    run: ({ shim }) => shim.load("library.so"),
  },
  {
    name: "LOAD of nothing",
    right: isFresh,
    effect: then({ state: "failed" }, RV.generalError),
    run: ({ shim }) => shim.load("/nowhere/library.so"),
  },
  { name: "LOAD", right: isFresh, effect: then({ state: "loaded" }), run: ({ shim }) => shim.load(recorder.library) },
  {
    name: "LOGIN",
    right: isLoaded,
    effect: then({ state: "logged in" }),
    run: ({ shim, give }, right) => {
      if (right) give("1234");
      return shim.login(slot);
    },
  },
  {
    name: "LOGIN to no token",
    right: isLoaded,
    effect: then({ state: "failed" }, SHIM_RV.notTried),
    run: ({ shim }) => shim.login(7n),
  },
  { name: "KEYS", right: isLoggedIn, effect: then({ listed: true }), run: ({ shim }) => shim.keys(slot) },
  {
    name: "USES",
    right: (model) => isLoggedIn(model) && !model.uses && !model.armed,
    effect: (model) => (model.listed ? then({ uses: true })(model) : RV.noKey),
    run: ({ shim }) => shim.uses([...USE_OF].map(([handle, use]) => ({ slotId: slot, handle, use }))),
  },
  {
    name: "ARM",
    right: (model) => isLoggedIn(model) && !model.armed,
    effect: then({ armed: true }),
    run: ({ shim }) => shim.arm(),
  },
  ...(["sign", "decrypt", "unwrap"] as const).flatMap((use) => [one, two, kek].map((handle) => useStep(use, handle))),
];

/** Sequences that get somewhere: the right order, with anything in between. */
const RIGHT_ORDER = ["CREDENTIAL", "LOAD", "LOGIN", "KEYS", "USES", "ARM"];
const anyStep = fc.constantFrom(...STEPS);
const sequences = fc
  .tuple(
    fc.nat({ max: RIGHT_ORDER.length }),
    fc.array(fc.array(anyStep, { maxLength: 4 }), { minLength: 7, maxLength: 7 }),
  )
  .map(([depth, between]) =>
    between.flatMap((steps, index) => [
      ...steps,
      ...STEPS.filter(({ name }) => index < depth && name === RIGHT_ORDER[index]),
    ]),
  );

test("I7: in any order of ops each answers as the state model says, and no forbidden function of the library is called", async () => {
  await fc.assert(
    fc.asyncProperty(sequences, async (steps) => {
      const started = await recorder.start();
      const model: Model = {
        ...{ state: "fresh", listed: false, uses: false, armed: false, probed: false },
        operations: 0,
      };
      try {
        for (const [index, step] of steps.entries()) {
          const right = step.right(model);
          const expected = right ? step.effect(model) : RV.notSupported;
          const so = () =>
            steps
              .slice(0, index + 1)
              .map(({ name }) => name)
              .join(", ");
          expect(await rvOf(step.run(started, right)), so()).toBe(expected);
          expect(await started.shim.status(), so()).toBe(BigInt(model.operations));
        }
        const calls = started.lines();
        const count = (pattern: RegExp) => calls.filter((line) => pattern.test(line)).length;
        expect(count(/^(sign|decrypt|unwrap) /)).toBe(model.operations);
        expect(count(/^(forbidden|value)$/)).toBe(0);
        expect(count(/^login$/)).toBe(isLoggedIn(model) ? 1 : 0);
        expect(Object.keys(started.shim.attempts()).length > 0).toBe(model.probed);
      } finally {
        started.child.kill("SIGKILL");
        await started.ended;
      }
    }),
    { numRuns: 150 },
  );
});
