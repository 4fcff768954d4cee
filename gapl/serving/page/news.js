// How far the service is, for eyes and, not too often, for screen readers.

import { capital, get } from "./elements.js";
import { LABELS } from "./rules.js";
import { UNREADABLE, headline, labelBy, lead } from "./verdict.js";

const QUIET_MS = 5000; // between two announcements of how far it is

export class News {
  #fresh = []; // images that were done since the service had nothing to do
  #told = 0;

  constructor({ images, rules }) {
    Object.assign(this, { images, rules });
    images.addEventListener("add", () => this.#show());
    images.addEventListener("clear", () => this.#clear());
    images.addEventListener("change", ({ image }) => this.#follow(image));
    this.#show();
  }

  #follow(image) {
    if (image.closer) return this.#tellCloser(image);
    if (["judged", "failed"].includes(image.state)) this.#fresh.push(image);
    this.#show();
    if (!this.images.count("waiting", "judging", "delayed")) this.#tellEnd();
    else if (Date.now() - this.#told > QUIET_MS) this.#tellProgress();
  }

  #show() {
    const total = this.images.all.length;
    const done = this.images.count("judged", "failed");
    get("progress").hidden = done === total;
    get("bar").value = total ? done / total : 0;
    const delayed = this.images.all.find(({ state }) => state === "delayed");
    get("step").textContent = `${done} of ${total} judged. ${delayed ? delayed.note : ""}`;
  }

  #tellProgress() {
    this.#told = Date.now();
    announce(get("step").textContent);
  }

  #tellEnd() {
    const fresh = this.#fresh.splice(0);
    if (fresh.length === 1) announce(verdictOf(fresh[0], this.rules.chosen));
    else if (fresh.length) announce(summary(fresh, this.rules.chosen));
  }

  #tellCloser({ closer, closerNote, row }) {
    const { holds, resaves } = row.explanation.stable ?? {};
    const done = `Looked closer: there are maps now, and the verdict holds in ${holds} of ${resaves?.length} re-saves.`;
    announce(closer === "done" ? done : closerNote);
  }

  #clear() {
    this.#fresh = [];
    announce("All images are cleared.");
    this.#show();
  }
}

export function announce(text) {
  get("status").textContent = text;
}

function verdictOf(image, rule) {
  const score = image.row ? ` Score ${image.row.score.toFixed(3)}.` : "";
  const warnings = (image.row?.warnings ?? []).map((each) => ` Warning: ${each}.`).join("");
  return `${image.name}: ${headline(image, rule)}. ${lead(image, rule)}${score}${warnings}`;
}

function summary(images, rule) {
  const counts = Object.groupBy(images, (image) => labelBy(image, rule));
  const named = [...LABELS, UNREADABLE].filter((label) => counts[label]);
  return capital(`${images.length} images: ${named.map((label) => `${counts[label].length} ${label}`).join(", ")}.`);
}
