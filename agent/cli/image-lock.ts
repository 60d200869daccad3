import { writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { Archive } from "../../vm-images/apt.ts";
import { encodeLock, lockPathOf, readOwnLock } from "../../vm-images/lock.ts";
import { lockRecipe } from "../../vm-images/newest.ts";
import { RECIPE_NAMES, readRecipe } from "../../vm-images/recipes.ts";
import { type Command, UsageError } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "lock the Debian packages that a recipe of your own names besides the project's",
  positionals: ["FOLDER"],
  options: {
    update: { type: "boolean", help: "take the newest versions, of those that are locked too" },
    cache: { type: "string", value: "DIR", help: "downloads (default: build/cache)" },
    json: JSON_OPTION,
  },
  examples: ["ironclaw image lock my-image", "ironclaw image lock my-image --update"],
  run: async (input, io) => {
    const recipe = await readRecipe(input.positional(0));
    if (RECIPE_NAMES.includes(input.positional(0))) {
      throw new UsageError("FOLDER", {
        expected: "a recipe of your own",
        got: recipe.name,
        hint: "node vm-images/packages.ts --update locks what the project's recipes name",
      });
    }
    const archive = new Archive(join(resolve(input.optional("cache") ?? "build/cache"), "apt"));
    const packages = await lockRecipe(archive, recipe, input.flag("update") ? [] : await readOwnLock(recipe));
    await writeFile(lockPathOf(recipe), encodeLock(packages));
    const lines = packages.map(({ name, version, sha256 }) => `${sha256}  ${name} ${version}`);
    answer(input, io, { file: lockPathOf(recipe), packages }, [...lines, `${packages.length} packages`].join("\n"));
    return 0;
  },
};
