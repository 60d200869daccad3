import type { Command } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { openService, SERVICE_OPTIONS, VIEWER_OPTION, viewerToken } from "./verifier-options.ts";

type Row = Awaited<ReturnType<Awaited<ReturnType<typeof openService>>["machines"]>>[number];

const HEAD = ["machine", "state", "release", "launch", "assurance", "violations", "last report", "flags"];

export const command: Command = {
  summary: "the fleet as a verifier service sees it: each machine's state, release, last report and flags",
  positionals: [],
  options: { ...SERVICE_OPTIONS, token: VIEWER_OPTION, json: JSON_OPTION },
  examples: ["ironclaw verifier machines --to unix:/run/verifier.sock --token viewer.token"],
  run: async (input, io) => {
    const machines = await (await openService(input)).machines(await viewerToken(input));
    answer(input, io, { machines }, renderTable([HEAD, ...machines.map(cells)]));
    return 0;
  },
};

function cells({ name, state, release, launch, assurance, violations, lastSeen, flags }: Row): readonly string[] {
  return [
    name,
    state,
    release ?? "-",
    launch ?? "-",
    assurance,
    `${violations}`,
    lastSeen ?? "-",
    flags.join(" ") || "-",
  ];
}

function renderTable(rows: readonly (readonly string[])[]): string {
  const width = (column: number) => Math.max(...rows.map((row) => row[column]?.length ?? 0));
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(width(column)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
