import { type Files, openFiles } from "./files.ts";

/** The account that the spawner gives the agent and the unsealer, in the image and in the package (`AGENT_UID` in spawner.h). */
export const AGENT_UID = 990;

/**
 * The agent that was started with this configuration; null when none is seen. Anybody can give a process these arguments, a set-user-ID
 * program of root's included, but only root starts one all of whose user ids are the agent's: what is believed of it, root could have done.
 */
export function agentProcess(files: Files, config: string): number | null {
  const pid = files.names("/proc").find((name) => {
    if (!/^\d+$/.test(name)) return false;
    const words = files.text(`/proc/${name}/cmdline`)?.split("\0") ?? [];
    const at = words.indexOf("agent");
    return at > 0 && words[at + 1] === "--config" && words[at + 2] === config && isAgents(files, name);
  });
  return pid === undefined ? null : Number(pid);
}

/** Real, effective, saved and file system user, as the kernel shows them to everybody (proc_pid_status(5)); a name's line feed is escaped there. */
function isAgents(files: Files, pid: string): boolean {
  const users = /^Uid:\t(.*)$/m.exec(files.text(`/proc/${pid}/status`) ?? "")?.[1];
  return users === Array(4).fill(AGENT_UID).join("\t");
}

/**
 * The files as the agent sees them, where it runs and may be looked at (by root): its state volume is mounted for it alone. Otherwise the system's own.
 *
 * @param pid as `agentProcess` found it
 */
export function agentsFiles(files: Files, pid: number | null): Files {
  const root = `/proc/${pid}/root`;
  return pid !== null && files.names(root).length > 0 ? openFiles(files.path(root)) : files;
}
