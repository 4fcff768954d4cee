// What an explanation says beside its maps, as sections of a sheet.

import * as bars from "./bars.js";
import { capital, el, percent, printable, sentence, signed } from "./elements.js";

const SHOWN = 8; // prototypes, those that moved the logit most
const UNKNOWN = "unknown"; // what the family of a generator is called that is not known
const TOLD = ["made by a generator", "edited with a generator", "taken by a camera", "digitised by a scanner"];

function section(kind, title, ...body) {
  return el("section", { class: kind }, el("h3", {}, title), ...body);
}

// Short notes for a list of images: what is worth a look beside the verdict.
export function notesOf({ explanation = {}, label, warnings = [] }) {
  const { family, origin = [], unlike, stable } = explanation;
  const named = family && family.name !== UNKNOWN ? [`family of generators: ${family.name}`] : [];
  const told = origin.filter(({ says }) => TOLD.includes(says));
  const said = told.map(({ says, name }) => `the file says: ${says}${name ? ` (${name})` : ""}`);
  const far = unlike?.is_unlike ? ["unlike anything in training: less certain"] : [];
  const shaky = stable && isShaky(stable, label) ? ["the verdict is not stable: take it as unsure"] : [];
  return [...new Set([...named, ...said, ...far, ...shaky, ...warnings])];
}

const isShaky = (stable, label) => stable.label === "unsure" && label !== "unsure";

export function words({ in_words: said = [] }) {
  return said.length > 0 && section("words", "In words", el("ul", {}, said.map((each) => el("li", {}, printable(each)))));
}

// ------------------------------------------------------------------------------------------------------
// Prototypes

// Returns the prototypes in words, and the table of those that moved the logit most.
export function prototypes(explanation, { logit, score }) {
  const { prototypes: found = [], in_words: said = [] } = explanation;
  const title = "Which prototypes answered";
  if (!found.length) return section("prototypes", title, el("p", {}, sentence(printable(explanation.note ?? ""))));
  const strongest = found.slice(0, SHOWN);
  const most = Math.max(...strongest.map(({ contribution }) => Math.abs(contribution)));
  const rows = strongest.map((each) => prototype(each, most));
  const table = el(
    "table",
    {},
    el("thead", {}, el("tr", {}, headings())),
    el("tbody", {}, rows, sums(strongest, found.length, explanation.bias, logit, score)),
  );
  const about =
    `The logit, which the score is made of, is a sum of what each of ${found.length} prototypes adds, and a constant. ` +
    "A prototype stands for real images or for generators. Its attention is how much it has to say of this image, and " +
    "it may pull either way: below 0 towards real, above 0 towards fake.";
  const details = el("details", {}, el("summary", {}, "What each of them adds"), el("p", {}, about), table);
  return section("prototypes", title, el("p", {}, printable(said[0] ?? "", 1000)), details);
}

function headings() {
  return [
    el("th", { scope: "col" }, "Prototype"),
    el("th", { scope: "col", class: "number" }, "Attention"),
    el("th", { scope: "col", class: "ways" }, el("span", {}, "real"), " ", el("span", {}, "fake")),
    el("th", { scope: "col", class: "number" }, "Adds"),
  ];
}

function prototype({ label, index, described_as: described, attention, contribution }, most) {
  const name = [`${capital(label)} prototype ${index}`, described && el("span", { class: "soft" }, printable(described))];
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, name),
    el("td", { class: "number" }, percent(attention, 1)),
    el("td", { class: "wide" }, bars.pull(contribution, most)),
    el("td", { class: "number" }, signed(contribution)),
  );
}

// What is added to the strongest, so that all lines add up to the logit.
function sums(strongest, count, bias, logit, score) {
  const others = logit - bias - strongest.reduce((sum, { contribution }) => sum + contribution, 0);
  const rest = count > strongest.length && [[`The other ${count - strongest.length} prototypes`, signed(others)]];
  const lines = [["A constant of the detector", signed(bias)], ["Sum: the logit", signed(logit)]];
  return [...(rest || []), ...lines, ["As a score, from 0 to 1", score.toFixed(3)]].map(([what, value]) =>
    el("tr", { class: "sum" }, el("th", { scope: "row", colspan: 3 }, what), el("td", { class: "number" }, value)),
  );
}

// ------------------------------------------------------------------------------------------------------
// Family, training, stability, origin

export function family({ family: found }) {
  if (found === undefined) return null;
  if (found === null) return section("family", "Family of generators", el("p", {}, "Told only of what is called fake."));
  const isKnown = found.name !== UNKNOWN;
  const rows = Object.entries(found.probabilities).map(([name, probability]) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, printable(name)),
      el("td", { class: "wide" }, bars.share(probability)),
      el("td", { class: "number" }, percent(probability)),
    ),
  );
  const named = el("b", {}, isKnown ? printable(found.name) : "not known: none is likely enough");
  const said = el("p", {}, "If a generator made the image: ", named, ". A family that the detector does not know cannot be named.");
  return section("family", "Family of generators", said, isKnown && el("table", {}, el("tbody", {}, rows)));
}

export function unlike({ unlike: found }) {
  if (!found) return null;
  const said = el("b", {}, found.is_unlike ? "Unlike anything in training: less certain." : "Like images of training.");
  const far = ` Its distance from them is ${found.distance.toFixed(3)}; from ${found.cut.toFixed(3)} on, an image is unlike them.`;
  return section("unlike", "Is it like training?", el("p", {}, said, far));
}

// Re-saves are judged by the detector's own thresholds, whatever rule decides now.
export function stability({ stable }, label, rule) {
  if (!stable) return null;
  const same = stable.resaves.filter((each) => each.label === label).length;
  const rows = stable.resaves.map((each) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, printable(each.name)),
      el("td", { class: "wide" }, bars.smallScale(each.score, rule)),
      el("td", { class: "number" }, each.score.toFixed(3)),
      el("td", { class: each.label }, el("b", {}, each.label)),
    ),
  );
  const shaky = isShaky(stable, label) && el("b", {}, " That is too few: take it as unsure.");
  const said =
    `The image was changed as sharing changes images, and judged again. In ${stable.holds} of ${stable.resaves.length}, ` +
    `the verdict holds: it does not turn into the opposite. In ${same} it stays the same.`;
  return section("stable", "Is the verdict stable?", el("p", {}, said, shaky), el("table", {}, el("tbody", {}, rows)));
}

export function origin({ origin: found, origin_in_words: said }) {
  if (!found) return null;
  const list = found.length > 0 && el("ul", {}, found.map(finding));
  return section("origin", "What the file says about itself", el("p", {}, sentence(printable(said, 1000))), list);
}

function finding({ says, name, kind, where, signature, text }) {
  const signed = signature && `, signature: ${signature}`;
  const place = `${kind.replaceAll("_", " ")}, ${printable(where)}${signed}`;
  const quoted = text && text !== name && el("q", {}, printable(text));
  return el("li", {}, el("b", {}, capital(says) + (name && ":")), ` ${printable(name)} `, el("small", {}, place), quoted);
}
