import { type HostItem, isHostDevice, unknownPart } from "./configuration.ts";
import { keyed, type ReadOption } from "./qemu-keys.ts";
import type { OptionKeys } from "./words.ts";

const SOCKET =
  "path host port server wait telnet tn3270 websocket reconnect reconnect-ms tls-creds tls-authz mux ipv4 ipv6 to delay";
const OTHERS =
  "id backend fd logfile logappend localaddr localport input-path signal append size cols rows width height name debug chardev clipboard mouse";

/** A character device by its backend. */
export const readChardev = keyed("backend", `${SOCKET} ${OTHERS}`, (keys, what) => [
  ...backendItems(keys, what),
  ...pathItems(keys.get("logfile") ?? "", what),
]);

function backendItems(keys: OptionKeys, what: string): readonly HostItem[] {
  const backend = keys.get("backend") ?? "";
  switch (backend) {
    case "null":
    case "stdio":
    case "vc":
    case "pty":
    case "ringbuf":
    case "memory":
    case "mux":
      return [];
    case "socket":
      return socketItems(keys, what);
    case "udp":
      return [{ kind: "network-socket", what }];
    case "file":
    case "pipe":
      return [...pathItems(keys.get("path") ?? "", what), ...pathItems(keys.get("input-path") ?? "", what)];
    case "serial":
    case "tty":
    case "parallel":
    case "parport":
      return [{ kind: "device", what }];
    case "spicevmc":
    case "spiceport":
    case "dbus":
    case "qemu-vdagent":
      return [{ kind: "display", what, onNetwork: false }];
    default:
      return [unknownPart(what, backend)];
  }
}

function socketItems(keys: OptionKeys, what: string): readonly HostItem[] {
  if (keys.has("host") || keys.has("port")) return [{ kind: "network-socket", what }];
  // One that somebody else opened, as libvirt does, may be of any kind.
  return (keys.get("path") ?? "") === "" || keys.has("fd") ? [unknownPart(what, "a socket without a path")] : [];
}

function pathItems(path: string, what: string): readonly HostItem[] {
  return isHostDevice(path) ? [{ kind: "device", what }] : [];
}

/** QEMU reads what follows `unix:` like a backend's keys, a host and a port among them. */
const readUnix = keyed("path", SOCKET, socketItems);

/** Monitors, consoles and ports in the short form: whatever listens on, or calls, an address of a network, and devices of the host. */
export const readOutlet: ReadOption = (value, what, machine) => {
  const outlet = value.replace(/^mon:/, "");
  const [, scheme = "", rest = ""] = /^([a-z\d]+):(.*)$/s.exec(outlet) ?? [];
  if (/^(?:null|none|stdio|vc|pty)$/.test(outlet)) return [];
  switch (scheme) {
    case "vc":
    case "con":
    case "pty":
    case "chardev":
      return [];
    case "file":
    case "pipe":
      return pathItems(rest, what);
    case "unix":
      return readUnix(rest, what, machine);
    case "tcp":
    case "udp":
    case "telnet":
    case "websocket":
    case "tn3270":
      return [{ kind: "network-socket", what }];
    default:
      return [isHostDevice(outlet) || outlet.startsWith("COM") ? { kind: "device", what } : unknownPart(what, outlet)];
  }
};
