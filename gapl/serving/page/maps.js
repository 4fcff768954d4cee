// Maps over a picture: the score of each tile, and what covering a part of the picture does to the score.
//
// Lengths are pixels of the picture. A part is orange where it speaks more for a fake than the median part, and blue
// where it speaks less for one. The captions have the numbers, so nothing is said by colour alone.

import { el, signed, svg } from "./elements.js";

const FULL = 0.5; // the difference of logits that has full colour, or the largest one: weak maps look weak
const LEAST = 1e-6; // of a score and of 1 - score, whose logit is taken
const NEAR_PX = 2; // that the size of the picture may differ by: places are rounded, in pixels of a reduced picture

// Returns the layers of the object `where` of an explanation: each a name, shapes, and what to say below.
export function layersOf(where, { width, height }) {
  return [patchLayer(where.patches), tileLayer(where.tiles, width, height)];
}

// Whether the browser shows the image as it was judged: it may turn it otherwise, or not at all.
export function fits(where, { width, height }) {
  const [left, top, wide, high] = where.patches.box;
  const near = NEAR_PX * where.tiles.reduced_by;
  return Math.abs(2 * left + wide - width) <= near && Math.abs(2 * top + high - height) <= near;
}

// ------------------------------------------------------------------------------------------------------
// Tiles

function tileLayer(tiles, width, height) {
  const scores = tiles.tiles.map(([, , score]) => score);
  const reduced = tiles.reduced_by > 1 ? ` of the picture reduced by ${tiles.reduced_by}` : "";
  const side = `${Math.round(tiles.side / tiles.reduced_by)} px${reduced}`;
  const spread =
    scores.length === 1
      ? `One tile of ${side}: score ${scores[0].toFixed(2)}.`
      : `${scores.length} tiles of ${side}: scores from ${Math.min(...scores).toFixed(2)} to ` +
        `${Math.max(...scores).toFixed(2)}, the middle one ${median(scores).toFixed(2)}.`;
  const about =
    "The detector judged each tile as if it were all that it sees closely. Orange: a higher score than the middle " +
    `one. Blue: a lower one. ${spread}`;
  return {
    name: "tiles",
    shapes: cellsOf(tiles, width, height).map(rectangle),
    about: [legend("lower than the middle one", "higher"), el("p", {}, about)],
  };
}

// The rectangles that the edges of all tiles make, each with the mean score of the tiles over it.
function cellsOf({ side, tiles }, width, height) {
  const boxes = tiles.map(([left, top, score]) => ({
    left: Math.max(left, 0), // the tile of an image that was padded stands out of it
    top: Math.max(top, 0),
    right: Math.min(left + side, width),
    bottom: Math.min(top + side, height),
    score,
  }));
  const middle = logit(median(boxes.map(({ score }) => score)));
  const full = Math.max(FULL, ...boxes.map(({ score }) => Math.abs(logit(score) - middle)));
  const across = pairs(boxes.flatMap(({ left, right }) => [left, right]));
  const down = pairs(boxes.flatMap(({ top, bottom }) => [top, bottom]));
  return down.flatMap(([top, bottom]) =>
    across.flatMap(([left, right]) => {
      const over = boxes.filter((b) => b.left <= left && left < b.right && b.top <= top && top < b.bottom);
      if (!over.length) return [];
      const score = over.reduce((sum, each) => sum + each.score, 0) / over.length;
      return [{ left, top, right, bottom, value: (logit(score) - middle) / full, said: `score ${score.toFixed(2)}` }];
    }),
  );
}

// Neighbours among sorted places.
function pairs(places) {
  const sorted = [...new Set(places)].sort((a, b) => a - b);
  return sorted.slice(1).map((place, i) => [sorted[i], place]);
}

function logit(score) {
  const inside = Math.min(Math.max(score, LEAST), 1 - LEAST);
  return Math.log(inside / (1 - inside));
}

// ------------------------------------------------------------------------------------------------------
// Patches

function patchLayer({ box, map }) {
  const [left, top, width, height] = box;
  const values = map.flat();
  const middle = median(values);
  const full = Math.max(FULL, ...values.map((value) => Math.abs(value - middle)));
  const [wide, high] = [width / map[0].length, height / map.length];
  const cells = map.flatMap((row, y) =>
    row.map((value, x) => ({
      left: left + wide * x,
      top: top + high * y,
      right: left + wide * (x + 1),
      bottom: top + high * (y + 1),
      value: (value - middle) / full,
      said: `covered, the logit changes by ${signed(-value)}`,
    })),
  );
  const about =
    "Parts of the small copy of the whole picture, which is one of the detector's views, were covered, one after the " +
    "other. Orange: covering that part lowers the score more than covering the median part, so it speaks more for a " +
    `fake. Blue: less. Covering changes the logit by ${signed(-Math.max(...values))} to ` +
    `${signed(-Math.min(...values))}. The frame is where that view ends. The verdict is by all views.`;
  return {
    name: "patches",
    shapes: [...cells.map(rectangle), svg("rect", { class: "view", x: left, y: top, width, height })],
    about: [legend("more for real", "more for fake"), el("p", {}, about)],
  };
}

// ------------------------------------------------------------------------------------------------------
// Both

function rectangle({ left, top, right, bottom, value, said }) {
  const place = { x: left, y: top, width: right - left, height: bottom - top };
  const look = { class: value > 0 ? "fake" : "real", "fill-opacity": Math.min(1, Math.abs(value)).toFixed(2) };
  return svg("rect", { ...place, ...look }, svg("title", {}, said));
}

function legend(low, high) {
  const bar = svg("svg", { "aria-hidden": "true" }, ["low", "high"].map((end) => faded(end)));
  return el("p", { class: "legend" }, el("span", {}, low), bar, el("span", {}, high));
}

const faded = (end) => svg("rect", { class: end, width: "100%", height: 10 });

// What the legends fade by: in the middle of the scale, the picture is seen as it is.
export function gradients() {
  const low = [svg("stop", { offset: 0 }), svg("stop", { offset: 0.5, "stop-opacity": 0 })];
  const high = [svg("stop", { offset: 0.5, "stop-opacity": 0 }), svg("stop", { offset: 1 })];
  const defined = [svg("linearGradient", { id: "low" }, low), svg("linearGradient", { id: "high" }, high)];
  return svg("svg", { class: "defined", "aria-hidden": "true" }, svg("defs", {}, defined));
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}
