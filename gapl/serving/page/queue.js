// Has the service judge images, two at a time, each in a request of its own.

import { Problem, detect, explore, patiently } from "./service.js";

const AT_A_TIME = 2;
const OURS = "The page made a mistake; the console of the browser says more.";

export class Queue {
  #waiting = [];
  #busy = 0;
  #stopping = new AbortController();

  // limits: of the answer of /v1/model
  constructor(images, limits) {
    Object.assign(this, { images, limits });
    images.addEventListener("clear", () => this.#clear());
  }

  add(images) {
    for (const image of images) this.images.update(image, { state: "waiting", note: "waits" });
    this.#waiting.push(...images);
    for (let free = AT_A_TIME - this.#busy; free > 0; free--) this.#work(this.#stopping.signal);
  }

  // Finds where in an image the score comes from, and whether its verdict is stable.
  async explore(image) {
    const signal = this.#stopping.signal;
    const tell = (closer, closerNote, row = image.row) => this.images.update(image, { closer, closerNote, row });
    const wait = (problem) => tell("looking", retrying(problem));
    tell("looking", "The service looks closer.");
    try {
      const row = await patiently(() => explore(image.file, this.#options(signal)), { signal, wait, again: false });
      tell("done", "", row);
    } catch (error) {
      if (!signal.aborted) tell("failed", wordsOf(error));
    }
  }

  async #work(signal) {
    this.#busy += 1;
    while (!signal.aborted && this.#waiting.length) await this.#judge(this.#waiting.shift(), signal);
    if (!signal.aborted) this.#busy -= 1;
  }

  async #judge(image, signal) {
    const tell = (state, note, found = {}) => this.images.update(image, { state, note, row: null, ...found });
    const wait = (problem) => tell("delayed", retrying(problem));
    tell("judging", "is being judged");
    try {
      const row = await patiently(() => detect(image.file, this.#options(signal)), { signal, wait });
      tell("judged", "", { row });
    } catch (error) {
      if (!signal.aborted) tell("failed", wordsOf(error), { isFinal: error.isFinal });
    }
  }

  #options(signal) {
    return { signal, maxBytes: this.limits.bytes };
  }

  #clear() {
    this.#stopping.abort();
    this.#stopping = new AbortController();
    this.#waiting = [];
    this.#busy = 0;
  }
}

const retrying = (problem) => `${problem.message} Trying again in ${problem.retryAfter} s.`;

function wordsOf(error) {
  if (error instanceof Problem) return error.message;
  console.error(error);
  return OURS;
}
