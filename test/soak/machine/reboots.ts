/** Of the spawner, when it has capped and reboots (SPAWNER.md): because its agent is gone, or because its agent asked for it. */
export const REBOOTS = { gone: 10, asked: 12 } as const;

/** What is seen of a machine that reboots by itself, and of one whose power is cut: there the spawner, whom the agent asks who calls, goes first. */
export const REBOOT = ["lost", "unreachable", "report"] as const;
export const POWER_CYCLE = [...REBOOT, "not-allowed"] as const;
