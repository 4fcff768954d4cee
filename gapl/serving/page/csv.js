// Judged images -> a table in CSV.

import { labelBy } from "./verdict.js";

// Programs for tables run a cell that begins so.
const RUNS = /^[=+\-@\t\r\n]/;
const QUOTED = /[",;\r\n]/;

const COLUMNS = {
  path: ({ image }) => image.name,
  label: ({ image, rules }) => labelBy(image, rules.chosen),
  decided_by: ({ rules }) => rules.chosen.title,
  other_label: ({ image, rules }) => (rules.other ? labelBy(image, rules.other) : ""),
  other_decided_by: ({ rules }) => rules.other?.title ?? "",
  score: ({ row }) => row.score,
  threshold: ({ rules }) => rules.chosen.threshold,
  real_below: ({ rules }) => rules.chosen.realBelow,
  warnings: ({ row }) => row.warnings?.join("; "),
  family: ({ row }) => row.explanation?.family?.name,
  origin: ({ row }) => row.explanation?.origin_in_words,
  holds_in_resaves: ({ row }) => row.explanation?.stable?.holds,
  error: ({ image }) => (image.state === "judged" ? "" : image.note),
  sha256: ({ row }) => row.sha256,
  model: ({ row }) => row.model,
  model_sha256: ({ row }) => row.model_sha256,
  views: ({ row }) => row.views,
};

export function toCsv(images, rules) {
  const lines = images.map((image) => {
    const found = { image, rules, row: image.row ?? {} };
    return Object.values(COLUMNS).map((value) => cell(value(found)));
  });
  return [Object.keys(COLUMNS), ...lines].map((line) => `${line.join(",")}\r\n`).join("");
}

// Numbers are ours. A text that would run is shown as it is, behind an apostrophe.
function cell(value) {
  if (typeof value === "number") return `${value}`;
  const text = value ?? "";
  const harmless = RUNS.test(text) ? `'${text}` : text;
  return QUOTED.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless;
}

// Hands a text to the reader as a file.
export function download(name, text) {
  const address = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv;charset=utf-8" }));
  const link = Object.assign(document.createElement("a"), { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
