import { utf8 } from "../../../policy/index.ts";
import { GOOD, lineOf, OURS } from "../../support/host-configurations.ts";
import type { Seeds } from "./made.ts";

const passed = [
  "-device",
  '{"driver":"vfio-pci","host":"0000:03:00.0"}',
  "-device",
  "usb-host,vendorid=0x8e6,productid=17459",
];
const open = [
  ...["-monitor", "tcp::1", "-serial", "unix:/x,server=on", "-chardev", "socket,id=c,host=::,port=1", "-vnc", ":1"],
  ...[
    "-object",
    "memory-backend-memfd,id=m,size=1G,share=off",
    "-global",
    "driver=ICH9-LPC,property=disable_s3,value=0",
  ],
  ...["-blockdev", '{"driver":"raw","node-name":"n","file":{"driver":"nbd"}}', "-wormhole", "-machine", "usb=yes"],
];
const devices =
  "<hostdev mode='subsystem' type='pci'><source><address bus='0x03' slot='0' function='0'/></source></hostdev>" +
  "<interface type='user'/><graphics type='vnc'><listen type='socket'/></graphics><serial type='tcp'/><input type='tablet' bus='usb'/>";
const more =
  "<cpu><numa><cell id='0' memAccess='shared'/></numa></cpu><qemu:commandline><qemu:arg value='-s'/></qemu:commandline>";

export function hostSeeds(): Record<string, Seeds> {
  return {
    "host-configuration": {
      domain: utf8(GOOD),
      "domain-open": utf8(GOOD.replace("</devices>", `${devices}</devices>${more}`)),
      line: utf8(lineOf(OURS)),
      "line-open": utf8(lineOf([...OURS.slice(0, 12), ...passed, ...open])),
      words: utf8(["/usr/bin/qemu-system-x86_64", ...OURS, ...passed, ""].join("\0")),
    },
  };
}
