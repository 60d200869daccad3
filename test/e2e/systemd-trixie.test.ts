import { describeInstalledDebian } from "../support/installed-debian.ts";

describeInstalledDebian("trixie", 2);
