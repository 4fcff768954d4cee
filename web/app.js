// The page: takes an image, hands it to worker.js, and shows what comes back.

const MB = 1e6;
const WAIT_MS = 4000; // for the service worker; the page works without it
const VERDICTS = {
  fake: "Fake: made by a generator",
  real: "Real: not made by a generator",
  unsure: { fake: "Unsure, leans to fake", real: "Unsure, leans to real" },
};
const LOOKS = {
  centre: "the middle",
  quarters: "a quarter",
  reduced: "the middle, smaller",
  whole: "the whole image, small",
};

const get = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)}%`;

let worker = null;
let number = 0; // of the newest image
let pending = null; // an image that came before the worker
let isReady = false;
let isJudging = false; // the newest image, or it waits for that

takeImages();
await isolate();
startWorker();

// ------------------------------------------------------------------------------------------------------
// Images: chosen, dropped or pasted

function takeImages() {
  get("file").addEventListener("change", ({ target }) => {
    if (target.files.length) take(target.files[0]);
    target.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", ({ clipboardData }) => {
    if (clipboardData?.files.length) take(clipboardData.files[0]);
    else showError("There is no image in the clipboard.");
  });
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      get("drop").classList.toggle("over", name === "dragover");
      if (name !== "drop") return;
      if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
      else showError("That is no file. Save the image first, then drop it here.");
    });
  }
}

function take(file) {
  number += 1;
  isJudging = true;
  showError("");
  get("verdict").hidden = true;
  showPreview(file);
  if (isReady) showStep("Reading the image", 0);
  announce(isReady ? "Judging the image." : "The image is judged as soon as the detector is loaded.");
  pending = { number, file };
  if (worker) send();
}

function send() {
  if (pending) worker.postMessage(pending);
  pending = null;
}

function showPreview(file) {
  const preview = get("preview");
  URL.revokeObjectURL(preview.src);
  preview.hidden = true;
  preview.onload = () => (preview.hidden = false);
  preview.src = URL.createObjectURL(file);
  preview.alt = file.name ? `Your image, ${file.name}` : "Your image";
  get("choose").textContent = "Choose another image";
}

// ------------------------------------------------------------------------------------------------------
// The worker

// Let the service worker serve this page, which then may use threads. That takes one reload, before anything else.
async function isolate() {
  if (!navigator.serviceWorker) return;
  const controlled = new Promise((resolve) => {
    if (navigator.serviceWorker.controller) resolve();
    navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true });
    setTimeout(resolve, WAIT_MS);
  });
  try {
    await navigator.serviceWorker.register("sw.js", { updateViaCache: "none" });
    await controlled;
  } catch (error) {
    console.warn(`without a service worker: ${error.message}`);
    return;
  }
  const tried = sessionStorage.getItem("isolated");
  sessionStorage.setItem("isolated", "tried");
  if (navigator.serviceWorker.controller && !crossOriginIsolated && !tried && !number) {
    location.reload();
    await new Promise(() => {}); // the page ends here
  }
}

function startWorker() {
  worker = new Worker("worker.js", { type: "module" });
  worker.onerror = (event) => fail(`The detector could not be started: ${event.message ?? "worker.js failed"}`);
  worker.onmessage = ({ data }) => {
    if (data.number === undefined || data.number === number) MESSAGES[data.type](data);
  };
  send();
}

const MESSAGES = {
  loading({ loaded, total }) {
    const text = `Loading the detector: ${Math.round(loaded / MB)} of ${Math.round(total / MB)} MB, once`;
    showStep(loaded < total ? text : "Starting the detector", loaded / total);
  },
  ready({ threads }) {
    isReady = true;
    document.body.dataset.threads = threads;
    get("progress").hidden = !isJudging;
    if (!number) announce("The detector is ready.");
  },
  failed({ message }) {
    fail(`The detector could not be loaded: ${message}. Reload the page to try again.`);
  },
  progress({ done, total, view }) {
    showStep(`Look ${done + 1} of ${total}: ${LOOKS[view]}`, done / total);
  },
  verdict: showVerdict,
  error({ message }) {
    get("preview").hidden = true;
    fail(`This file was not judged: ${message}.`);
  },
};

// ------------------------------------------------------------------------------------------------------
// What is shown

function showStep(text, share) {
  get("progress").hidden = false;
  get("bar").value = share;
  get("step").textContent = text;
}

function showError(text) {
  get("error").textContent = text;
}

function fail(text) {
  isJudging = false;
  showError(text);
  if (isReady) get("progress").hidden = true;
}

function announce(text) {
  get("status").textContent = text;
}

function showVerdict({ score, label, likelier, confidence, realBelow, threshold, warnings, seconds }) {
  const headline = label === "unsure" ? VERDICTS.unsure[likelier] : VERDICTS[label];
  const band = realBelow < threshold ? `, unsure from ${percent(realBelow)} to ${percent(threshold)}` : "";
  isJudging = false;
  showError("");
  get("progress").hidden = true;
  get("label").textContent = headline;
  get("meaning").textContent = `Confidence ${percent(confidence)}`;
  get("scale-text").textContent = `P(fake) is ${percent(score)}${band}`;
  showScale(score, realBelow, threshold);
  get("warnings").replaceChildren(
    ...warnings.map((warning) => Object.assign(document.createElement("li"), { textContent: warning })),
  );
  showTiming(seconds);
  const verdict = get("verdict");
  Object.assign(verdict.dataset, { label, score });
  verdict.hidden = false;
  verdict.scrollIntoView({ block: "nearest" });
  announce([`${headline}. Confidence ${percent(confidence)}.`, ...warnings].join(" "));
}

function showScale(score, realBelow, threshold) {
  const width = 400;
  const ends = { real: [0, realBelow], unsure: [realBelow, threshold], fake: [threshold, 1] };
  for (const [name, [from, to]] of Object.entries(ends)) {
    const part = get("scale").querySelector(`rect.${name}`);
    part.setAttribute("x", from * width);
    part.setAttribute("width", (to - from) * width);
    get("ends").querySelector(`.${name}`).style.flexGrow = to - from;
  }
  for (const part of get("scale").querySelectorAll(".marker")) {
    part.setAttribute("transform", `translate(${score * width} 2)`);
  }
}

function showTiming(seconds) {
  const { threads, first } = document.body.dataset;
  const lines = [`Judged in ${seconds.toFixed(1)} s with ${threads === "1" ? "1 thread" : `${threads} threads`}.`];
  if (!first) {
    document.body.dataset.first = performance.now() / 1000;
    lines.push(`The first verdict came ${(performance.now() / 1000).toFixed(1)} s after the page was opened.`);
  }
  get("timing").textContent = lines.join(" ");
}
