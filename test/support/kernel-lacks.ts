/** What Landlock of kernel 6.1 cannot confine: a policy has to name it. */
export const LACKS_OF_6_1 = ["landlock-ioctl-dev", "landlock-scope", "landlock-tcp", "landlock-truncate"] as const;
