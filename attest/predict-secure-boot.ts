import { concatBytes, toHex } from "../policy/index.ts";
import { extendPcr, hashInBank, type PcrBank, resetValue } from "./banks.ts";

/** A variable of the firmware, or one entry of such a variable. */
export interface UefiVariable {
  /** EFI_GUID as it lies in memory, 16 bytes. */
  readonly vendor: Uint8Array;
  /** Printable ASCII. */
  readonly name: string;
  /** Empty for a variable that is not there: its absence is measured too. */
  readonly data: Uint8Array;
}

/** What PCR 7 is made of when Secure Boot is on. */
export interface SecureBootMeasurements {
  /** SecureBoot, PK, KEK, db, dbx, in this order: EV_EFI_VARIABLE_DRIVER_CONFIG. */
  readonly variables: readonly UefiVariable[];
  /** The entry of db by which the boot image was found to be allowed: EV_EFI_VARIABLE_AUTHORITY. */
  readonly authority: UefiVariable;
}

/**
 * PCR 7 as OVMF leaves it (TCG PC Client Platform Firmware Profile, section 3.3.4.8): the variables, a separator, then the authority, which is
 * measured once however many images it allows. Does not hold for firmware that starts drivers or applications which other entries allow.
 */
export function predictPcr7({ variables, authority }: SecureBootMeasurements): Readonly<Record<PcrBank, string>> {
  const events = [...variables.map(variableData), new Uint8Array(4), variableData(authority)];
  const fold = (bank: PcrBank) =>
    toHex(events.reduce((old, event) => extendPcr(bank, old, hashInBank(bank, event)), resetValue(bank, 7)));
  return { sha256: fold("sha256"), sha384: fold("sha384") };
}

/** UEFI_VARIABLE_DATA: vendor, length of the name in characters, length of the contents, name in UTF-16LE without its NUL, contents. */
function variableData({ vendor, name, data }: UefiVariable): Uint8Array {
  const lengths = new DataView(new ArrayBuffer(16));
  lengths.setBigUint64(0, BigInt(name.length), true);
  lengths.setBigUint64(8, BigInt(data.length), true);
  const wide = new Uint8Array(2 * name.length);
  for (let index = 0; index < name.length; index++) wide[2 * index] = name.charCodeAt(index);
  return concatBytes(vendor, new Uint8Array(lengths.buffer), wide, data);
}
