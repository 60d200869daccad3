import type { AssuranceClass } from "./enrolment.ts";

/** Something that a result does not establish, however good it is. */
export interface NotProven {
  readonly code: string;
  readonly text: string;
}

const byClass: Readonly<Record<AssuranceClass, NotProven>> = {
  "software-tpm": {
    code: "software-tpm",
    text: "The TPM is a program of the machine's host. Whoever controls the host can copy its state, put an older one back, read its keys and make it sign anything: this result says what that host wants to be known of the machine.",
  },
  "provider-ek": {
    code: "provider-ek",
    text: "The TPM's keys are vouched for by the provider of the machine, who runs the TPM as part of the hypervisor. That provider, and whoever breaks into the hypervisor, can read its keys and play it: this result is as good as the provider.",
  },
  "hardware-ek": {
    code: "hardware-ek",
    text: "A TPM manufacturer vouches for the chip, and nobody for its way to the machine. Its wires can be tapped, it can be reset apart from the machine or be soldered into another one, and a hypervisor that hands a chip through can measure into it what it likes.",
  },
};

const always: readonly NotProven[] = [
  {
    code: "hsm",
    text: "The HSM's own firmware and hardware are not attested. Its name, serial number, firmware version and the attributes of its keys are what the vendor's library answered.",
  },
  {
    code: "vendor-code",
    text: "The PKCS#11 libraries that run are those that the release names, byte for byte, each in its sandbox. Nobody has shown that their code is correct, and inside its sandbox a library can misuse the session it was given.",
  },
  {
    code: "hypervisor",
    text: "Whoever runs the virtual machine can read and change its memory while it runs, the PIN for the time that it is there included. No quoted value shows that.",
  },
  {
    code: "passthrough",
    text: "That the HSM's device is really at the other end of the virtual machine's bus, and nothing in between, is the host's word.",
  },
  {
    code: "after-quote",
    text: "The report is about the moment of its quote. What the machine has done since, a restart included, is in its next report or in none.",
  },
  {
    code: "asserted",
    text: "What the agent says of itself and of its shims is as good as the boot PCRs: they show which code was started, not that a flaw in it was not used afterwards.",
  },
  {
    code: "self-reported",
    text: "What the shim says of its own escape probe proves nothing alone. It counts together with what the kernel told the agent, and only then.",
  },
];

/** What no result of this class establishes: the class's own paragraph first, then those of every class. */
export function notProvenFor(assurance: AssuranceClass): readonly NotProven[] {
  return [byClass[assurance], ...always];
}

/** All of them, in the order of APPRAISAL.md. */
export const everyNotProven: readonly NotProven[] = [...Object.values(byClass), ...always];
