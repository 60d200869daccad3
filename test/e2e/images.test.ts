import { describeImages } from "../support/image-boot.ts";

// Releases; `devices` boots the general kernel, and `secure-boot` a recipe that is not the project's. `images-others` has those that no file boots.
describeImages([
  ["release", "cloud"],
  ["release", "cloud-6.1"],
]);
