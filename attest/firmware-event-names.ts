/** Event types of the PC Client Platform Firmware Profile, in words for a person. */
const eventNames: ReadonlyMap<number, string> = new Map([
  [0x0, "boot code before the log"],
  [0x1, "post code"],
  [0x3, "note"],
  [0x4, "separator"],
  [0x5, "action"],
  [0x6, "tagged event"],
  [0x7, "firmware root of trust contents"],
  [0x8, "firmware root of trust version"],
  [0x9, "microcode"],
  [0xa, "platform configuration"],
  [0xb, "device list"],
  [0xc, "compact hash"],
  [0xd, "boot loader step"],
  [0xe, "boot loader data"],
  [0xf, "non-host code"],
  [0x10, "non-host configuration"],
  [0x11, "non-host information"],
  [0x12, "omitted boot device events"],
  [0x13, "post code, version 2"],
  [0x80000001, "UEFI variable"],
  [0x80000002, "UEFI boot variable"],
  [0x80000003, "UEFI boot application"],
  [0x80000004, "UEFI boot driver"],
  [0x80000005, "UEFI runtime driver"],
  [0x80000006, "UEFI partition table"],
  [0x80000007, "UEFI action"],
  [0x80000008, "firmware volume"],
  [0x80000009, "UEFI handoff tables"],
  [0x8000000a, "firmware volume, version 2"],
  [0x8000000b, "UEFI handoff tables, version 2"],
  [0x8000000c, "UEFI boot variable, version 2"],
  [0x8000000d, "UEFI GPT event, version 2"],
  [0x80000010, "firmware host-processor start"],
  [0x800000e0, "UEFI variable authority"],
  [0x800000e1, "firmware blob by SPDM"],
  [0x800000e2, "firmware configuration by SPDM"],
  [0x800000e3, "device policy by SPDM"],
  [0x800000e4, "device authority by SPDM"],
]);

/**
 * Plain words for a TCG event type, `null` for one that the profile does not list. What an event calls itself is nobody's
 * proof: for a reader, never for a decision.
 */
export function firmwareEventName(type: number): string | null {
  return eventNames.get(type) ?? null;
}
