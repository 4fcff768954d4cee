// Judges images away from the page's thread: bytes of a file -> pixels -> views -> logit -> verdict.

import "./files.js"; // CACHE, a name for this version of the files, and LARGE, the bytes of the large ones by path
import * as ort from "./onnxruntime/ort.wasm.bundle.min.mjs";
import { decode } from "./decode.js";
import { crops, deviations, normalise, roundEven } from "./views.js";

const MAX_THREADS = 8;

let wanted = 0; // number of the image that the page waits for; a newer one ends the work on an older one
let loaded = null;

self.onmessage = ({ data: { number, file } }) => {
  wanted = number;
  judge(number, file).catch((error) => self.postMessage({ type: "error", number, message: error.message }));
};

loaded = load();
loaded.then(
  () => self.postMessage({ type: "ready", threads: ort.env.wasm.numThreads }),
  (error) => self.postMessage({ type: "failed", message: error.message }),
);

// ------------------------------------------------------------------------------------------------------
// Loading

async function load() {
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency) : 1;
  const cache = await openCache();
  const files = await fetchLarge(cache);
  ort.env.wasm.wasmBinary = files.get(".wasm");
  const [detector, view, verdict] = [
    await fetchDetector(cache),
    await start(files.get("view.onnx")),
    await start(files.get("verdict.onnx")),
  ];
  return { detector, view, verdict };
}

// Out of the cache that the graphs are in: a newer service worker would answer with that of another version.
async function fetchDetector(cache) {
  const bytes = await fetchFile(new URL("model/detector.json", import.meta.url).href, cache, () => {});
  return JSON.parse(new TextDecoder().decode(bytes));
}

function start(bytes) {
  return ort.InferenceSession.create(bytes, {
    executionProviders: ["wasm"],
    // With more, onnxruntime replaces what makes floats of int8 weights: slower here, and elsewhere less exact.
    graphOptimizationLevel: "basic",
  });
}

// Return the bytes of the large files, out of the cache or from the server, by how their names end.
async function fetchLarge(cache) {
  const total = Object.values(self.LARGE).reduce((a, b) => a + b, 0);
  const found = new Map();
  let loaded = 0;
  const tell = (count) => self.postMessage({ type: "loading", loaded: (loaded += count), total });
  for (const path of Object.keys(self.LARGE)) {
    const end = path.endsWith(".wasm") ? ".wasm" : path.split("/").at(-1);
    found.set(end, await fetchFile(new URL(path, import.meta.url).href, cache, tell));
  }
  return found;
}

// Where the service worker keeps files, too. Without it, as in some private windows, every visit loads them anew.
async function openCache() {
  try {
    return await caches.open(`${new URL("./", import.meta.url)} ${self.CACHE}`);
  } catch (error) {
    console.warn(`nothing is kept for the next visit: ${error.message}`);
    return null;
  }
}

async function fetchFile(url, cache, tell) {
  const kept = await cache?.match(url);
  const answer = kept ?? (await fetch(url, { cache: "no-cache" })); // the browser may keep an older one
  if (!answer.ok) throw new Error(`${url} did not come: ${answer.status} ${answer.statusText}`);
  const bytes = await readBody(answer, tell);
  // A full disk is no reason to fail.
  if (!kept) await cache?.put(url, new Response(bytes)).catch((error) => console.warn(error.message));
  return bytes;
}

async function readBody(answer, tell) {
  const parts = [];
  for (const reader = answer.body.getReader(); ; ) {
    const { value, done } = await reader.read();
    if (done) return new Uint8Array(await new Blob(parts).arrayBuffer());
    parts.push(value);
    tell(value.length);
  }
}

// ------------------------------------------------------------------------------------------------------
// Judging

async function judge(number, file) {
  const image = await decode(new Uint8Array(await file.arrayBuffer()));
  const { detector, view, verdict } = await loaded;
  const started = performance.now();
  const { pixel } = detector;
  const seen = [];
  const squares = [];
  for (const { name, image: square } of crops(image, pixel)) {
    await new Promise((resolve) => setTimeout(resolve)); // lets onmessage run
    if (number !== wanted) return;
    self.postMessage({ type: "progress", number, done: seen.length, total: detector.num_views, view: name });
    squares.push(square);
    const shape = [1, 3, pixel.size_px, pixel.size_px];
    seen.push(await view.run({ pixels_1CHW: new ort.Tensor("float32", normalise(square, pixel), shape) }));
  }
  const logit = await logitOf(seen, detector, verdict);
  if (!Number.isFinite(logit)) throw new Error("the detector's score is not a number");
  const seconds = (performance.now() - started) / 1000;
  const warnings = [...detector.notices, ...imageWarnings(image, squares, detector)];
  self.postMessage({ type: "verdict", number, ...decide(logit, detector), logit, warnings, seconds });
}

async function logitOf(seen, detector, verdict) {
  const classes = seen.map((each) => each.classes_LD);
  const ofCrops = detector.whole ? classes.slice(0, -1) : classes;
  const last = seen.at(-1);
  const mean = new Float32Array(last.classes_LD.data.length);
  for (const { data } of ofCrops) data.forEach((value, i) => (mean[i] += value / ofCrops.length));
  const given = {
    crops_LD: new ort.Tensor("float32", mean, last.classes_LD.dims),
    whole_LD: last.classes_LD,
    tokens_1TD: last.tokens_1TD,
  };
  const { logit_1 } = await verdict.run(Object.fromEntries(verdict.inputNames.map((name) => [name, given[name]])));
  return logit_1.data[0];
}

// gapl/calibration.py and gapl/verdict.py.
function decide(logit, { scale, offset, real_below: realBelow, threshold }) {
  const score = 1 / (1 + Math.exp(-(scale * logit + offset)));
  const unsure = realBelow < threshold && realBelow <= score && score <= threshold;
  const label = unsure ? "unsure" : score >= threshold ? "fake" : "real";
  const likelier = score >= 0.5 ? "fake" : "real";
  const confidence = (label === "unsure" ? likelier : label) === "fake" ? score : 1 - score;
  return { score, label, likelier, confidence, realBelow, threshold };
}

function imageWarnings({ width, height, transparency, severalFrames }, squares, detector) {
  const { pixel, seen_transparent: seenTransparent, plain_levels: plainLevels, image_warnings: texts } = detector;
  const found = [];
  if (Math.min(width, height) < pixel.size_px) {
    found.push(texts.small.replace("{width}", width).replace("{height}", height));
  }
  if (transparency >= seenTransparent) {
    found.push(texts.transparent.replace("{share}", `${roundEven(100 * transparency)}%`));
  }
  if (severalFrames) found.push(texts.several_frames);
  if (Math.max(...deviations(squares)) < plainLevels) found.push(texts.plain);
  return found;
}
