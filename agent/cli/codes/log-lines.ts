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
