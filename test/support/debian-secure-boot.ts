import { readFile, writeFile } from "node:fs/promises";
import { concatBytes, fromHex } from "../../policy/index.ts";
import { type Firmware, findFirmware } from "../../vm-images/qemu-args.ts";
import { type SecureBootKeys, secureBootVariables } from "../../vm-images/secure-boot.ts";
import { NON_VOLATILE, writeVariables } from "../../vm-images/variable-store.ts";
import { storedVariables, storeEnd, storeStart } from "./variable-store-reader.ts";

// The firmware that machines are sold and rented with: Microsoft's keys, which vouch for shim, and Secure Boot on.

/** 605dab50-e046-4300-abb6-3dd810dd8b23, as it lies in memory. */
const SHIM = fromHex("50ab5d6046e00043abb63dd810dd8b23");

/** Its variable store at `path`, with the keys that the machine's owners have had shim accept (`mokutil --import`). */
export async function writeSecureBootStore(path: string, owners: readonly SecureBootKeys[]): Promise<Firmware> {
  const firmware = findFirmware({ secureBoot: true });
  const blank = new Uint8Array(await readFile(firmware.vars));
  const store = new Uint8Array(await readFile(firmware.vars.replace(/\.fd$/, ".ms.fd")));
  const lists = owners.map((keys) => secureBootVariables(keys).find(({ name }) => name === "db")?.data);
  const data = concatBytes(...lists.filter((list) => list !== undefined));
  const mokList = { vendor: SHIM, name: "MokList", data, attributes: NON_VOLATILE.bootOnly };
  const added = writeVariables(blank, [mokList]);
  store.set(added.subarray(storeStart(added), storeEnd(added)), storeEnd(store));
  await writeFile(path, store);
  return { ...firmware, vars: path };
}

/** What a person does in the firmware's menu. */
export async function switchSecureBootOff({ vars }: Firmware): Promise<void> {
  const store = new Uint8Array(await readFile(vars));
  const found = storedVariables(store).filter(({ name, isValid }) => isValid && name === "SecureBootEnable");
  if (found.length !== 1) throw new Error(`SecureBootEnable: ${found.length} of it`);
  for (const { data } of found) data.fill(0);
  await writeFile(vars, store);
}
