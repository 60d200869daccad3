import { describeImages } from "../support/image-boot.ts";

describeImages([
  ["demo", "usb"],
  ["demo", "cloud-6.1"],
]);
