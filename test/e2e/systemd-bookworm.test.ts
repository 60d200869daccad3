import { describeInstalledDebian } from "../support/installed-debian.ts";

describeInstalledDebian("bookworm", 2);
