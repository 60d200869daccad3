import { describeImages } from "../support/image-boot.ts";

describeImages([
  ["release", "usb"],
  ["demo", "usb"],
  ["demo", "cloud-6.1"],
]);
