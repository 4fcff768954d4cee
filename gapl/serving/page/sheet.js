// The sheet of one image: its verdict, and whatever explains it.

import { scoreScale } from "./bars.js";
import { button, el, get, printable } from "./elements.js";
import * as evidence from "./evidence.js";
import { Picture } from "./picture.js";
import { canTryAgain, headline, labelBy, lead } from "./verdict.js";

const LONGEST_NAME = 1000;

export class Sheet {
  #image = null;
  #picture = null;

  // again         has images judged once more
  // explore       begins to look closer at an image
  // canExplore    whether the service does that
  // neighbours    the images before and after one, where there are such
  constructor({ images, rules, explore, again, canExplore, neighbours }) {
    Object.assign(this, { images, rules, explore, again, canExplore, neighbours });
    images.addEventListener("change", ({ image }) => image === this.#image && this.#render());
    rules.addEventListener("change", () => this.#render());
  }

  show(image) {
    if (image !== this.#image) this.#picture = image && new Picture(image);
    this.#image = image;
    get("sheet").hidden = !image;
    this.#render();
    if (image) get("headline").focus();
  }

  #render() {
    if (!this.#image) return;
    const { id } = document.activeElement;
    const hadFocus = get("sheet").contains(document.activeElement);
    get("sheet").replaceChildren(...this.#parts(this.#image).filter(Boolean));
    if (hadFocus) [id, "show-patches", "headline"].map(get).find(Boolean).focus();
  }

  #parts(image) {
    const { row, state } = image;
    const explanation = row?.explanation ?? {};
    const picture = this.#picture.element(explanation.where);
    const header = this.#header(image);
    if (state !== "judged") return [header, picture, canTryAgain(image) && this.#again(image)];
    const own = this.rules.all[0]; // re-saves have the labels that it gives
    return [
      columns([header], [this.#score(image)]),
      columns([picture, evidence.words(explanation)], [
        this.#closer(image),
        evidence.stability(explanation, row.label, own),
        evidence.origin(explanation),
        evidence.family(explanation),
        evidence.unlike(explanation),
        evidence.prototypes(explanation, row),
      ]),
      el("p", { class: "facts" }, `Image: sha256 ${row.sha256}`),
    ];
  }

  #header(image) {
    const rule = this.rules.chosen;
    const warnings = (image.row?.warnings ?? []).map((each) => el("li", {}, printable(each)));
    return el(
      "header",
      {},
      this.#ways(image),
      el("h2", { id: "headline", class: `headline ${labelBy(image, rule)}`, tabindex: -1 }, headline(image, rule)),
      el("p", { class: "lead" }, lead(image, rule)),
      this.#compared(image),
      el("p", { class: "name" }, el("bdi", {}, printable(image.name, LONGEST_NAME))),
      warnings.length > 0 && el("ul", { class: "warnings" }, warnings),
    );
  }

  #ways(image) {
    if (this.images.all.length < 2) return null;
    const [before, after] = this.neighbours(image);
    const way = (id, to, text) => to && el("a", { id, href: `#image-${to.number}` }, text);
    const all = el("a", { id: "all", href: "#images" }, "All images");
    return el("nav", { "aria-label": "Images" }, all, way("before", before, "Previous"), way("after", after, "Next"));
  }

  #compared(image) {
    const { chosen, other } = this.rules;
    if (!other || image.state !== "judged") return null;
    const [one, two] = [chosen, other].map((rule) => labelBy(image, rule));
    return el("p", {}, `By ${chosen.title}: ${one}. By ${other.title}: ${two}${one === two ? "" : ", another label"}.`);
  }

  #score({ row }) {
    const rule = this.rules.chosen;
    const said = `The score is the probability that a generator made the image, as the detector has it: ${rule.words}.`;
    return el("section", { class: "scored" }, el("h3", {}, "Score"), scoreScale(row.score, rule), el("p", { class: "soft" }, said));
  }

  #again(image) {
    return el("p", { class: "buttons" }, button("Try again", () => this.again([image]), { id: "try-again" }));
  }

  #closer(image) {
    if (image.closer === "done") return null;
    const title = el("h3", {}, "Where in the image, and is it stable?");
    if (!this.canExplore) return el("section", {}, title, el("p", {}, "This service does not look closer at images."));
    const isLooking = image.closer === "looking";
    const about =
      "The service can find which parts of the image the score comes from, and whether the verdict holds when the image " +
      "is saved anew. That takes 25 times as long as a verdict.";
    return el(
      "section",
      { class: "closer", "aria-busy": `${isLooking}` },
      title,
      el("p", {}, about),
      button("Look closer", () => isLooking || this.explore(image), { id: "closer", "aria-disabled": `${isLooking}` }),
      isLooking && el("progress", { "aria-label": "Looking closer" }),
      image.closerNote && el("p", { class: image.closer === "failed" ? "trouble" : "soft" }, image.closerNote),
    );
  }
}

function columns(left, right) {
  return el("div", { class: "columns" }, el("div", {}, left), el("div", {}, right));
}
