/**
 * A part of the sandbox that older kernels lack, by the Landlock ABI that brought it. A policy names those whose absence it
 * puts up with (`sandbox.lacks`). What no kernel may lack is in README.md and has no name here.
 */
export const SANDBOX_FEATURES = [
  {
    name: "landlock-truncate",
    landlockAbi: 3,
    linux: "6.2",
    loss: "opening a file can empty it although no rule lets the library write there",
    remains:
      "the root is read-only, its files are another user's, truncate is denied, and after ARM no file is opened with O_TRUNC",
  },
  {
    name: "landlock-tcp",
    landlockAbi: 4,
    linux: "6.7",
    loss: "TCP connect and bind are not refused a second time, should a filter fail",
    remains: "seccomp denies sockets, or under relay bind, and the network namespace reaches nothing but the relay",
  },
  {
    name: "landlock-ioctl-dev",
    landlockAbi: 5,
    linux: "6.10",
    loss: "orders to device nodes are not refused a second time, should a filter fail",
    remains:
      "seccomp denies ioctl, or under usb all requests but those listed, and the root has no node that the policy does not name",
  },
  {
    name: "landlock-scope",
    landlockAbi: 6,
    linux: "6.12",
    loss: "signals and abstract Unix sockets out of the sandbox are not refused a second time, should a filter fail",
    remains: "seccomp denies both, and PID and network namespace hold nothing but the shim",
  },
] as const;

export type SandboxFeature = (typeof SANDBOX_FEATURES)[number]["name"];

/**
 * The features that a kernel with this Landlock ABI lacks, in the order of SANDBOX_FEATURES. Says nothing about a kernel
 * without Landlock or user notification: there the shim does not start at all.
 */
export function missingFeatures(landlockAbi: number): readonly SandboxFeature[] {
  // not `abi < needed`: a number that is none must count as a kernel that has nothing
  return SANDBOX_FEATURES.filter((feature) => !(landlockAbi >= feature.landlockAbi)).map(({ name }) => name);
}
