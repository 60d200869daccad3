import { describeImages } from "../support/image-boot.ts";

// Every release image, and one of a recipe that is not the project's. `images-demo` has the others that no file boots.
describeImages([
  ["release", "cloud"],
  ["release", "usb"],
  ["release", "cloud-6.1"],
  ["release", "own"],
]);
