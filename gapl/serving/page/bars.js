// Bars and scales as SVG. Places on them are shares of their width, so they are as wide as the page lets them.

import { svg } from "./elements.js";

const NARROW = 0.13; // a part of the scale that is too small for its name, and for two numbers

const at = (place) => `${(100 * Math.min(1, Math.max(0, place))).toFixed(2)}%`;

// A score on a scale from 0 to 1, which shows what scores are called by a rule.
export function scoreScale(score, rule) {
  const { realBelow, threshold, hasBand } = rule;
  const zones = [["real", 0, realBelow], ["unsure", realBelow, threshold], ["fake", threshold, 1]];
  const edges = threshold - realBelow > NARROW ? [realBelow, threshold] : [(realBelow + threshold) / 2];
  const numbers = edges.length === 2 || !hasBand ? edges.map((edge) => edge.toFixed(2)) : [range(realBelow, threshold)];
  const unsure = hasBand ? `; unsure from ${realBelow.toFixed(3)} to ${threshold.toFixed(3)}` : "";
  const said = `Score ${score.toFixed(3)} on a scale from 0, real, to 1, fake${unsure}; fake from ${threshold.toFixed(3)}`;
  return svg(
    "svg",
    { class: "score", role: "img", "aria-label": said },
    zones.map(zone),
    edges.map((edge, i) => text(edge, 66, numbers[i], "edge")),
    svg("line", { class: "mark", x1: at(score), x2: at(score), y1: 20, y2: 52 }),
    text(score, 14, score.toFixed(3), "value"),
  );
}

// A score on a thin scale with the unsure band of a rule, or its threshold.
export function smallScale(score, { realBelow, threshold, hasBand }) {
  const width = hasBand ? at(threshold - realBelow) : 2;
  return svg(
    "svg",
    { class: "thin", "aria-hidden": "true" },
    svg("rect", { class: "track", y: 4, width: "100%", height: 4 }),
    svg("rect", { class: "band", x: at(realBelow), y: 2, width, height: 8 }),
    svg("circle", { class: "dot", cx: at(score), cy: 6, r: 4 }),
  );
}

// A bar from the middle towards real, to the left, or towards fake. It is as long as can be for the value `most`.
export function pull(value, most) {
  const length = most ? 0.5 * Math.min(1, Math.abs(value) / most) : 0;
  const [side, start] = value > 0 ? ["fake", 0.5] : ["real", 0.5 - length];
  return svg(
    "svg",
    { class: "pull", "aria-hidden": "true" },
    svg("rect", { class: side, x: at(start), y: 2, width: at(length), height: 10 }),
    svg("line", { class: "middle", x1: "50%", x2: "50%", y1: 0, y2: 14 }),
  );
}

// A bar for a share from 0 to 1.
export function share(part) {
  return svg(
    "svg",
    { class: "share", "aria-hidden": "true" },
    svg("rect", { class: "track", y: 4, width: "100%", height: 6 }),
    svg("rect", { class: "filled", y: 4, width: at(part), height: 6 }),
  );
}

function zone([name, start, end]) {
  if (end <= start) return null;
  const title = end - start > NARROW && svg("text", { class: "zone", x: at((start + end) / 2), y: 41 }, name);
  return [svg("rect", { class: name, x: at(start), y: 24, width: at(end - start), height: 24 }), title];
}

function range(low, high) {
  const [from, to] = [low.toFixed(2), high.toFixed(2)];
  return from === to ? from : `${from} to ${to}`;
}

function text(place, y, content, kind) {
  const anchor = place < 0.08 ? "start" : place > 0.92 ? "end" : "middle";
  return svg("text", { class: kind, x: at(place), y, "text-anchor": anchor }, content);
}
