import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ImageError } from "./errors.ts";
import { makeDirectory } from "./make-directory.ts";
import { runTool } from "./tool.ts";

const KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg";

/** One binary package as the archive's signed index describes it. */
export interface ArchivePackage {
  readonly name: string;
  readonly version: string;
  /** Of the .deb file, lower-case hex. */
  readonly sha256: string;
  readonly depends: string;
}

/** How this host reaches its mirrors is the host's business: passed through to apt, and to nothing else. */
function hostSettings(): Record<string, string> {
  const names = ["APT_CONFIG", "http_proxy", "https_proxy", "no_proxy"];
  return Object.fromEntries(
    names.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]])),
  );
}

interface Mirrors {
  readonly main: string;
  readonly security: string;
}

/**
 * Where this machine gets Debian from. The project names no mirror: the host's own apt configuration does, and apt
 * checks the archive's signature whichever it is.
 */
async function mirrors(): Promise<Mirrors> {
  const found = (await mirrorsByLabel()) ?? (await mirrorsBySuite());
  if (found !== undefined) return found;
  throw new ImageError("ERR_IMAGE_PACKAGE", "apt sources: no Debian archive with its security archive is configured");
}

/** What downloaded Release files say of themselves; none are there on a host whose package lists were removed. */
async function mirrorsByLabel(): Promise<Mirrors | undefined> {
  const format = "$(ORIGIN)|$(LABEL)|$(REPO_URI)";
  const text = await runTool("apt-get", ["indextargets", "--format", format, "Created-By: Packages"], {
    environment: hostSettings(),
  });
  const lines = text.split("\n").map((line) => line.split("|"));
  const uri = (label: string) => lines.find((fields) => fields[0] === "Debian" && fields[1] === label)?.[2];
  const [main, security] = [uri("Debian"), uri("Debian-Security")];
  return main === undefined || security === undefined ? undefined : { main, security };
}

/** What the sources' form tells: Debian's is the archive that has both a suite and its -updates. */
async function mirrorsBySuite(): Promise<Mirrors | undefined> {
  const text = await runTool("apt-get", ["--print-uris", "update"], { environment: hostSettings() });
  const suites = [...text.matchAll(/^'(.+)\/dists\/([^/']+)\/InRelease'/gm)].map(([, uri = "", suite = ""]) => ({
    uri,
    suite,
  }));
  const has = (uri: string, suite: string) => suites.some((other) => other.uri === uri && other.suite === suite);
  const main = suites.find(({ uri, suite }) => has(uri, `${suite}-updates`))?.uri;
  const security = suites.find(({ suite }) => suite.endsWith("-security"))?.uri;
  return main === undefined || security === undefined ? undefined : { main, security };
}

/** The newest packages of all come in one suite, with their corrections. */
function sourcesOf(suite: Suite, main: string, security: string): readonly string[] {
  if (suite === "sid") return [`${main} sid`];
  return [`${main} ${suite}`, `${main} ${suite}-updates`, `${security} ${suite}-security`];
}

/** A release of Debian. What the image consists of is bookworm's; from the others come clients that the agent is tried with. */
export type Suite = "bookworm" | "trixie" | "sid";

/** A private apt state for one release of Debian: the host's packages, lists and cache stay untouched, no root is needed. */
export class Archive {
  readonly #directory: string;
  readonly #suite: Suite;
  #ready: Promise<void> | undefined;

  constructor(directory: string, suite: Suite = "bookworm") {
    this.#directory = directory;
    this.#suite = suite;
  }

  /** The newest version of each package, or the given version (`name=version`). Packages that are gone are left out. */
  async describe(names: readonly string[]): Promise<ArchivePackage[]> {
    await this.#open();
    const show = (asked: readonly string[]): Promise<string> =>
      this.#apt("apt-cache", ["show", "--no-all-versions", ...asked]);
    // One call for all is the rule; apt fails it as a whole when a single version is gone.
    const text = await show(names).catch(async () => {
      const one = names.map((name) => show([name]).catch(() => ""));
      return (await Promise.all(one)).join("\n\n");
    });
    return text.split(/\n\n+/).flatMap((entry) => parseIndexEntry(entry) ?? []);
  }

  /** Put the .deb files of `name=version` selections into `into`, under apt's own file names. */
  async download(selections: readonly string[], into: string): Promise<void> {
    await this.#open();
    await makeDirectory(into);
    await this.#apt("apt-get", ["download", "-q", ...selections], into);
  }

  #open(): Promise<void> {
    this.#ready ??= this.#update();
    return this.#ready;
  }

  async #update(): Promise<void> {
    const { main, security } = await mirrors();
    const signed = `[arch=amd64 signed-by=${KEYRING}]`;
    await makeDirectory(join(this.#directory, "state/lists/partial"));
    await makeDirectory(join(this.#directory, "cache/archives/partial"));
    await writeFile(join(this.#directory, "status"), "");
    await writeFile(
      join(this.#directory, "sources.list"),
      sourcesOf(this.#suite, main, security)
        .map((source) => `deb ${signed} ${source} main\n`)
        .join(""),
    );
    await this.#apt("apt-get", ["update", "-q"]);
  }

  #apt(program: string, args: readonly string[], directory?: string): Promise<string> {
    const settings = {
      "Dir::State": join(this.#directory, "state"),
      "Dir::State::status": join(this.#directory, "status"),
      "Dir::Cache": join(this.#directory, "cache"),
      // Some hosts switch the index cache off; without it every call parses the whole index again.
      "Dir::Cache::pkgcache": "pkgcache.bin",
      "Dir::Cache::srcpkgcache": "srcpkgcache.bin",
      "Dir::Etc::sourcelist": join(this.#directory, "sources.list"),
      "Dir::Etc::sourceparts": "-",
      "Dir::Etc::preferences": "-",
      "Dir::Etc::preferencesparts": "-",
      "APT::Architecture": "amd64",
      "APT::Architectures": "amd64",
      // The files belong to the caller; apt's own unprivileged user could not write them.
      "APT::Sandbox::User": "",
    };
    const options = Object.entries(settings).flatMap(([name, value]) => ["-o", `${name}=${value}`]);
    const environment = hostSettings();
    return runTool(
      program,
      [...options, ...args],
      directory === undefined ? { environment } : { environment, directory },
    );
  }
}

function parseIndexEntry(text: string): ArchivePackage | undefined {
  const field = (name: string): string => new RegExp(`^${name}: (.*)$`, "m").exec(text)?.[1] ?? "";
  const entry = {
    name: field("Package"),
    version: field("Version"),
    sha256: field("SHA256"),
    depends: field("Depends"),
  };
  return entry.name === "" || entry.sha256 === "" ? undefined : entry;
}
