export type { HostItem, HostMachine } from "./configuration.ts";
export {
  type HostDevice,
  type HostDevices,
  hostExposure,
  namesPlaces,
  readHostConfiguration,
  unknownDevices,
} from "./exposure.ts";
export type { Exposure, ExposureId } from "./exposure-words.ts";
export { sysfsDevices } from "./sysfs.ts";
