// The table of all images, which a reader sorts and filters.

import { smallScale } from "./bars.js";
import { button, capital, el, get, printable } from "./elements.js";
import { notesOf } from "./evidence.js";
import { LABELS } from "./rules.js";
import { UNREADABLE, canTryAgain, labelBy } from "./verdict.js";

const SOON_MS = 60; // in which changes are put together
const inOrder = new Intl.Collator(undefined, { numeric: true });
const score = ({ row }, otherwise) => row?.score ?? otherwise;
const ORDERS = {
  added: (a, b) => a.number - b.number,
  fake: (a, b) => score(b, -1) - score(a, -1),
  real: (a, b) => score(a, 2) - score(b, 2),
  unclear: (a, b) => Math.abs(score(a, 9) - 0.5) - Math.abs(score(b, 9) - 0.5),
  name: (a, b) => inOrder.compare(a.name, b.name),
};

export class Table {
  #rows = new Map(); // elements, by image
  #shown = []; // images, in their order
  #planned = 0;

  // again: has an image judged once more
  constructor({ images, rules, again }) {
    Object.assign(this, { images, rules, again });
    get("labels").append(...[...LABELS, UNREADABLE].map(choice));
    images.addEventListener("add", () => this.#plan());
    images.addEventListener("change", ({ image }) => this.#fill(image));
    images.addEventListener("clear", () => this.#rows.clear());
    images.addEventListener("clear", () => this.#plan());
    rules.addEventListener("change", () => images.all.forEach((image) => this.#fill(image)));
    get("controls").addEventListener("submit", (event) => event.preventDefault());
    get("controls").addEventListener("input", () => this.arrange());
    this.arrange();
  }

  // The images that are shown, in their order.
  get shown() {
    return this.#shown;
  }

  neighbours(image) {
    const place = this.#shown.indexOf(image);
    return place < 0 ? [] : [this.#shown[place - 1], this.#shown[place + 1]];
  }

  // Sort and filter, and say how many are shown.
  arrange() {
    clearTimeout(this.#planned);
    this.#planned = 0;
    const sorted = this.images.all.sort(ORDERS[get("order").value]);
    this.#place(sorted.map((image) => this.#row(image)));
    this.#count(sorted);
    this.#shown = sorted.filter((image) => this.#isWanted(image));
    const wanted = new Set(this.#shown);
    for (const [image, row] of this.#rows) row.hidden = !wanted.has(image);
    get("shown").textContent = `${wanted.size} of ${sorted.length} shown`;
    get("none").hidden = wanted.size > 0;
    get("download").textContent = `Download ${wanted.size} as CSV`;
    get("download").hidden = !wanted.size;
  }

  #plan() {
    this.#planned ||= setTimeout(() => this.arrange(), SOON_MS);
  }

  // Rows that are moved lose the focus.
  #place(rows) {
    const body = get("rows");
    const { activeElement } = document;
    if (rows.length !== body.children.length || rows.some((row, i) => body.children[i] !== row)) body.replaceChildren(...rows);
    if (body.contains(activeElement)) activeElement.focus();
  }

  #isWanted(image) {
    const { chosen, other } = this.rules;
    const label = labelBy(image, chosen);
    if (label && !get(`label-${label}`).checked) return false;
    if (other && get("changed").checked && labelBy(image, other) === label) return false;
    const text = `${image.name}\n${notesFor(image).join("\n")}`.toLowerCase();
    return text.includes(get("name").value.trim().toLowerCase());
  }

  #count(images) {
    const counts = Object.groupBy(images, (image) => labelBy(image, this.rules.chosen));
    for (const label of [...LABELS, UNREADABLE]) {
      const number = counts[label]?.length ?? 0;
      get(`label-${label}`).nextElementSibling.textContent = number;
      get(`label-${label}`).parentElement.hidden = !number;
    }
    const failed = images.filter(canTryAgain);
    get("again").hidden = !failed.length;
    get("again").textContent = `Try again (${failed.length})`;
  }

  // ----------------------------------------------------------------------------------------------------
  // A row

  #row(image) {
    if (!this.#rows.has(image)) {
      this.#rows.set(image, el("tr", {}));
      this.#fill(image);
    }
    return this.#rows.get(image);
  }

  #fill(image) {
    const row = this.#rows.get(image);
    if (row) {
      row.dataset.label = labelBy(image, this.rules.chosen);
      row.dataset.state = image.state;
      const picture = row.firstElementChild ?? el("td", {}, thumbnail(image));
      const parts = [picture, nameCell(image), this.#verdict(image), this.#other(image)];
      if (!row.firstElementChild) row.append(...parts);
      else this.#replace(row, parts);
    }
    this.#plan();
  }

  // The picture and the link stay, so that nothing flickers and no focus is lost.
  #replace(row, [, name, ...cells]) {
    row.children[1].replaceChildren(row.querySelector("a"), ...[...name.children].slice(1));
    cells.forEach((cell, i) => row.children[2 + i].replaceWith(cell));
  }

  #verdict(image) {
    if (image.state === "judged") return scored(labelBy(image, this.rules.chosen), image.row.score, this.rules.chosen);
    const isOver = image.state === "failed";
    const again = canTryAgain(image) && button("Try again", () => this.again([image]), { "aria-label": `Try again: ${image.name}` });
    const said = isOver ? "Not judged." : capital(image.note);
    return el("td", { class: "scored" }, el("p", { class: isOver ? "why" : "soft" }, said), again);
  }

  #other(image) {
    const { chosen, other } = this.rules;
    if (!other) return el("td", { hidden: true });
    if (image.state !== "judged") return el("td", {});
    const label = labelBy(image, other);
    const cell = scored(label, null, other);
    if (label !== labelBy(image, chosen)) cell.append(el("p", { class: "changes" }, "changes"));
    return cell;
  }
}

function choice(label) {
  const box = el("input", { type: "checkbox", id: `label-${label}`, checked: true });
  return el("label", { class: label, hidden: true }, box, ` ${label} `, el("span", {}));
}

function notesFor(image) {
  if (image.state === "failed") return [image.note];
  return image.row ? notesOf(image.row) : [];
}

function nameCell(image) {
  const name = el("a", { class: "name", href: `#image-${image.number}` }, el("bdi", {}, printable(image.name, 200)));
  const notes = notesFor(image).map((note) => el("li", {}, printable(note)));
  const kind = image.state === "failed" ? "notes trouble" : "notes";
  return el("td", {}, name, notes.length > 0 && el("ul", { class: kind }, notes));
}

function scored(label, score, rule) {
  const verdict = el("p", { class: "verdict" }, el("b", { class: label }, label));
  if (score === null) return el("td", { class: "compared" }, verdict);
  verdict.append(el("span", {}, score.toFixed(3)));
  return el("td", { class: "scored" }, verdict, smallScale(score, rule));
}

function thumbnail(image) {
  const picture = el("img", { src: image.address, alt: "", loading: "lazy", decoding: "async" });
  picture.addEventListener("error", () => picture.replaceWith(el("span", {}, "no preview")));
  return el("div", { class: "frame" }, picture);
}
