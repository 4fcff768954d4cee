// Judges images away from the page's thread: bytes of a file -> pixels -> views -> logit -> verdict.

import * as ort from "./onnxruntime/ort.wasm.bundle.min.mjs";
import { decode } from "./decode.js";
import { crops, normalise } from "./views.js";

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
  const detector = JSON.parse(new TextDecoder().decode(await fetchFile("model/detector.json", () => {})));
  const done = {};
  const sessions = {};
  for (const name of ["view", "verdict"]) {
    const bytes = await fetchFile(`model/${name}.onnx`, (count) => {
      done[name] = count;
      const loadedBytes = Object.values(done).reduce((a, b) => a + b, 0);
      self.postMessage({ type: "loading", loaded: loadedBytes, total: detector.bytes });
    });
    sessions[name] = await ort.InferenceSession.create(bytes, {
      executionProviders: ["wasm"],
      // With more, onnxruntime replaces what makes floats of int8 weights: slower here, and elsewhere less exact.
      graphOptimizationLevel: "basic",
    });
  }
  return { detector, ...sessions };
}

// Return the bytes of a file of this folder, and tell how many have come.
async function fetchFile(path, tell) {
  const answer = await fetch(new URL(path, import.meta.url));
  if (!answer.ok) throw new Error(`${path} did not come: ${answer.status} ${answer.statusText}`);
  const parts = [];
  let count = 0;
  for (const reader = answer.body.getReader(); ; ) {
    const { value, done } = await reader.read();
    if (done) break;
    parts.push(value);
    count += value.length;
    tell(count);
  }
  const bytes = new Uint8Array(count);
  for (let at = 0; parts.length; ) {
    const part = parts.shift();
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

// ------------------------------------------------------------------------------------------------------
// Judging

async function judge(number, file) {
  const image = await decode(new Uint8Array(await file.arrayBuffer()));
  const { detector, view, verdict } = await loaded;
  const started = performance.now();
  const { pixel } = detector;
  const seen = [];
  for (const { name, image: square } of crops(image, pixel)) {
    if (number !== wanted) return;
    self.postMessage({ type: "progress", number, done: seen.length, total: detector.num_views, view: name });
    const shape = [1, 3, pixel.size_px, pixel.size_px];
    seen.push(await view.run({ pixels_1CHW: new ort.Tensor("float32", normalise(square, pixel), shape) }));
  }
  const logit = await logitOf(seen, detector, verdict);
  if (!Number.isFinite(logit)) throw new Error("the detector's score is not a number");
  const seconds = (performance.now() - started) / 1000;
  const warnings = [...detector.notices, ...smallImage(image, detector)];
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

function smallImage({ width, height }, { pixel, small_image: warning }) {
  if (Math.min(width, height) >= pixel.size_px) return [];
  return [warning.replace("{width}", width).replace("{height}", height)];
}
