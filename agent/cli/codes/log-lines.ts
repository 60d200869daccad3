/**
 * What to do about each error and warning in a log (agent/LOGS.md), by component and message; `...` stands for a value. Messages that begin
 * with a value share a row. test/docs holds it against the sources.
 */
export const LOG_ACTS: Readonly<Record<string, string>> = {
  "agent ...": "the agent cannot start: the line says why. The spawner caps and reboots",
  "agent ..., going on without a store":
    "look at the store's disk: imports are made again, and reboots are not counted",
  "agent ..., reboot in ... s": "a lost login: look at the HSM; the machine comes back by itself",
  "agent ...: ...": "a code of [a machine that served](#a-machine-that-served): why there is no reboot",
  "agent agent lost, reboot in ... s": "read the console of the boot before",
  "agent audit log: ...":
    "checkpoint, anchor or deletion failed; it is tried again. If it goes on: run-book.md, the audit log",
  "agent devices-unreadable: ...": "look at the console, then reboot",
  "agent no checkpoints: ...": "nothing of the audit log is signed or deleted in this boot: look at the TPM",
  "agent no reports: ...": "`ironclaw unseal --check --machine DIR` says what is wrong with the endorsement key",
  "agent recovery-withheld: ...": "take a report, then reboot",
  "agent token ... is no longer served: ...": "the codes in the line: [a machine that served](#a-machine-that-served)",
  "agent refused: ...": "the codes in the line: [reasons of a launch](#reasons-of-a-launch)",
  "agent tpm-lost: ...":
    "nothing: the connection is opened again, and whoever asked had an error. If often, keep the lines and look at the TPM",
  "agent tpm-unreachable: ...": "look at the TPM; it is tried every ten seconds. If it was reset: reboot",
  "agent ..., the import is not kept": "look at the store's disk; the import is made again at the next boot",
  "agent after the launch: ... ...: ...":
    "the epoch was not raised, or a generation not settled: the next boot tries again",
  "agent key ...: gone: ...": "the caller lets the key in again",
  "agent shim ...: not stopped: ...": "costs memory until the reboot",
  "agent store: no valid copy, begun again": "a new disk, or a damaged one: imports are made again",
  "verifier kept what was in force: ...": "correct the document that is named, then SIGHUP again",
  "verifier failed": "a request met a failure nobody foresaw: keep the line, and report it",
  "verifier sweep failed": "look at the database's disk",
  "spawner ...: ...": "a file, link, sysctl or device that the line names cannot be had",
  "spawner ...: the loss is not noted: ...": "look at the store's disk; the loss is not counted",
  "spawner ...; agent PCR ..., rebooting...":
    "the machine ends: the first part says why. `NOT capped`: reboot the machine at once",
  "spawner agent PCR NOT capped before the agent's end":
    "it is tried again once the agent has ended; reboot the machine if that fails too",
  "spawner TPM2_PCR_Event: response 0x...": "the TPM did not take the cap; tried again until the reboot",
  "spawner agent: ...: ...": "the agent's program cannot be started: the installation is damaged",
  "spawner disks: not done": "a disk does not answer; the loss may not be noted",
  "spawner inherited sockets: ...": "correct the socket units",
  "spawner mount ...: ...": "the machine cannot go on: the kernel lacks something",
  "spawner reboot: ...": "reboot the machine from outside",
  "spawner run directory ...: ...":
    "another spawner serves this machine, or the directory has something in it that is not a spawner's: look at it, then start again",
  "spawner relay ...: ...": "tried again; if it goes on, the spawner is out of descriptors or processes",
  "spawner relay ...: ...: ...": "the relay's program cannot be started: the installation is damaged",
  "spawner workload ...: ...: ...": "the workload's program cannot be started: compare the list with the image",
  "spawner /proc hidepid: ...": "callers see each other's processes: a newer kernel",
  "spawner IRONCLAW_LOG: expected a level, or journal: or plain: and a level": "correct the variable",
  "agent IRONCLAW_LOG: expected a level, or journal: or plain: and a level": "correct the variable",
  "spawner firmware event log: ...": "reports will not verify: does the firmware keep a log?",
  "spawner no virtio ports": "nobody outside can reach the agent: give the machine its two ports",
  "spawner relay ...: ended, ... ...; again in ... ms": "it comes back; if often, look at the endpoints",
  "spawner shim ...: ended, ... ...":
    "a spare takes over; the audit log says why (`ironclaw audit show DIR --operation shim`)",
  "spawner state volume: device mapper: ...": "the volume was not taken apart; the reboot does it",
  "spawner state volume: key: ...": "the key stays in the kernel until the reboot",
  "spawner workload ...: ended, ... ...": "it is not started again: find out why it ended, then restart the machine",
  "relay cannot be confined: ...": "the kernel lacks Landlock or seccomp: the token is not served",
  "relay descriptor ...: not a listener": "a fault of ours: report it",
  "relay target ...: not an address": "a fault of ours: report it",
  "relay usage: relay ID TARGET...": "nobody but the spawner starts it",
  "relay ...: ...": "the endpoint cannot be reached: look at it and the network",
  "relay all ... connections are in use": "the library keeps too many connections; the oldest idle one is ended",
  "relay linger: ...": "a connection that was cut may look like a finished one",
};

/** What to do about each line that the initrd ends a machine with (vm-images/initrd), as `STEP: DETAIL`. */
export const INITRD_ACTS: Readonly<Record<string, string>> = {
  "...: ...": "a module, mount or device that the line names cannot be had: is the image whole?",
  "...: does not appear": "the kernel made no node for the verified root: boot again, and keep the console",
  "...: name or command line": "the initrd or the command line is not one that `image build` makes: build it again",
  "...: parameters too long": "the command line has too many words for this module: shorten the recipe's `commandLine`",
  "/: ...": "the kernel cannot make the verified root its own: keep the console, and report it",
  "/dev: ...": "the kernel lacks devtmpfs: is it a kernel of a recipe?",
  "/dev/mapper/control: ...": "the kernel lacks the device mapper: is it a kernel of a recipe?",
  "/init: ...": "the root has no spawner, or one for another processor: build the image again",
  "/proc: ...": "the kernel lacks procfs: is it a kernel of a recipe?",
  "/proc/cmdline: ...": "the kernel lacks procfs: is it a kernel of a recipe?",
  "/root: ...":
    "the root disk does not hold the file system that was measured: give the machine the `root.img` of its image",
  "/sys: ...": "the kernel lacks sysfs: is it a kernel of a recipe?",
  "chroot: ...": "the kernel cannot make the verified root its own: keep the console, and report it",
  "command line: no verity=":
    "the kernel image was started with another command line than its own: boot it by the firmware",
  "command line: too long": "more than 4095 bytes: shorten the recipe's `commandLine`",
  "command line: verity=": "the word is malformed, or there are two: build the image again, and pass no command line",
  "dm-verity: create: ...": "the kernel lacks the device mapper: is it a kernel of a recipe?",
  "dm-verity: parameters": "the word `verity=` is malformed: build the image again",
  "dm-verity: resume: ...": "the root disk cannot be read: give the machine the `root.img` of its image",
  "dm-verity: table: ...":
    "the root disk is shorter than what was measured, or cannot be read: give the machine the `root.img` of its image",
  "modules: ...": "the initrd has no folder of modules: build the image again",
  "root disk: none with the serial root": "give the machine its root disk, a virtio disk with the serial `root`",
};

/** What to do about each line of the package's scripts (vm-images/debian); empty where there is nothing to do. */
export const PACKAGE_ACTS: Readonly<Record<string, string>> = {
  "... ...: expected ... or nobody, got ..., refusing":
    "somebody else has a number that policies and reports name: give that user or group another one, or use another machine",
  "... ...: expected ... or none, got ..., refusing":
    "a user or group of our name has another number: take it away, if it is left over from something else",
  "agent PCR: expected the TPM to close it, got a failure, refusing: restart the machine, then remove the package":
    "as it says: only a restart closes the launch then",
  "the agent of this package ...; see /usr/share/doc/ironclaw-agent/install.md":
    "as it says: bring the cabinet, or `systemctl enable ironclaw-agent`",
  "the agent that runs goes on until the machine restarts": "",
};

/** What to do about each warning of a command (`warning: ...` on standard error, or at the end of `cabinet list`). */
export const WARNING_ACTS: Readonly<Record<string, string>> = {
  "...: expected ..., got ...": "[findings about a host](#findings-about-a-host)",
  "...: has a segment that is writable and executable: no profile lets it load": "ask the vendor for a library without",
  "...: has text relocations: no profile lets it load":
    "ask the vendor for a library that is built as position-independent code",
  "...: wants an executable stack: no profile lets it load": "ask the vendor for a library without",
  "credential ... has ended: ...": "seal the next generation",
  "credential ... is sealed to another TPM than this machine's: it will stay sealed":
    "seal it to this machine's EK certificate, or boot its own machine's folder",
  "credential ... stays sealed: no release here is of a key that the root approved for it":
    "`ironclaw keys delegate --credential` it, and sign again",
  "no release here is for this policy (serial ..., ...): everything stays sealed":
    "predict and sign a release for it, and put that in",
  "release ... begins later: ...": "wait, or sign one that begins now",
  "release ... has ended: ...": "sign the prediction again with a later end",
};
