/** What a workload does with its scope, again and again. */
export type Act = "sign-ec" | "sign-rsa" | "decrypt" | "unwrap" | "approved";

export interface Workload {
  /** Of its scope. */
  readonly scope: string;
  readonly act: Act;
  readonly door: "native" | "p11kit";
}

const SIGNERS = 6;

/** The scope through which what was unwrapped is used. */
export const RESTORED = "restored";
/** Between two operations, in milliseconds. */
export const PAUSE: Readonly<Record<Act, number>> = {
  ...{ "sign-ec": 250, "sign-rsa": 400, decrypt: 400, unwrap: 500, approved: 1000 },
};

/** Approvals are shown at the native door alone: the other one has no way to say what is waited for. */
export function planWorkloads(): readonly Workload[] {
  const both = (act: Act, name: string): readonly Workload[] =>
    (["native", "p11kit"] as const).map((door) => ({ scope: `${name}-${door}`, act, door }));
  return [
    ...Array.from({ length: SIGNERS }, (_, index) => both("sign-ec", `ec-${index}`)).flat(),
    ...both("sign-rsa", "rsa"),
    ...both("decrypt", "decrypt"),
    { scope: "unwrap", act: "unwrap", door: "native" },
    { scope: "approved", act: "approved", door: "native" },
  ];
}
