import { describeInstalledDebian } from "../support/installed-debian.ts";

// `systemd-bookworm` and `systemd-trixie` start it a second time, with what an administrator does to it later.
describeInstalledDebian("bookworm", 1);
