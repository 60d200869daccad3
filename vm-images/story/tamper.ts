import { encodeBundle, type Policy, parseBundle, parsePolicy, type SlotName, utf8 } from "../../policy/index.ts";
import { ImageError } from "../errors.ts";

export type CabinetContents = ReadonlyMap<SlotName, Uint8Array>;

/** A change by somebody who can write the disk, with every checksum made good again: only measurement can notice it. */
export type CabinetTamper = (contents: CabinetContents) => CabinetContents;

/** Change one byte of the PKCS#11 library, in the middle of it. */
export function changeLibraryByte(libraryPath: string): CabinetTamper {
  return (contents) => {
    const files = parseBundle(slot(contents, "module")).map(({ path, bytes }): [string, Uint8Array] => [path, bytes]);
    const library = files.find(([path]) => path === libraryPath)?.[1];
    if (library === undefined)
      throw new ImageError("ERR_IMAGE_SOURCE", "module bundle", {
        expected: libraryPath,
        got: "no such file",
      });
    const middle = library.length >> 1;
    library.set([(library[middle] ?? 0) ^ 0x01], middle);
    return new Map(contents).set("module", encodeBundle(files));
  };
}

/** Give another uid the first scope's key: one caller and one rule more than the release was signed for. */
export function addPolicyRule(uid: number): CabinetTamper {
  return (contents) => {
    const policy: Policy = parsePolicy(slot(contents, "policy"));
    const [scope] = policy.scopes;
    const caller = scope && policy.callers[scope.caller];
    if (scope === undefined || caller === undefined)
      throw new ImageError("ERR_IMAGE_SOURCE", "policy", {
        expected: "a scope",
        got: "none",
      });
    const widened: Policy = {
      ...policy,
      callers: { ...policy.callers, intruder: { ...caller, uid } },
      scopes: [...policy.scopes, { ...scope, name: "intruder", caller: "intruder" }],
    };
    return new Map(contents).set("policy", utf8(`${JSON.stringify(widened, null, 2)}\n`));
  };
}

function slot(contents: CabinetContents, name: SlotName): Uint8Array {
  const bytes = contents.get(name);
  if (bytes === undefined)
    throw new ImageError("ERR_IMAGE_SOURCE", `cabinet slot ${name}`, {
      expected: "bytes",
      got: "none",
    });
  return bytes;
}
