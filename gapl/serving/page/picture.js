// The picture of an image and, where it was explored, the maps over it.

import { el, printable, svg } from "./elements.js";
import { fits, gradients, layersOf } from "./maps.js";

const STRENGTH = 60; // percent
const NONE = "none";

export class Picture {
  #layer = "patches";
  #strength = STRENGTH;
  #failed = false;

  constructor(image) {
    this.img = el("img", { src: image.address, alt: printable(image.name) });
    this.figure = el("figure", { class: "picture" });
    this.img.addEventListener("load", () => this.#fill());
    this.img.addEventListener("error", () => {
      this.#failed = true;
      this.#fill();
    });
  }

  // where: of an explanation; undefined: the image was not explored
  element(where) {
    this.where = where;
    this.#fill();
    return this.figure;
  }

  #fill() {
    if (this.#failed) return this.figure.replaceChildren(frame("This browser cannot show the picture.", this.where));
    const size = { width: this.img.naturalWidth, height: this.img.naturalHeight };
    const layers = this.where && size.width && fits(this.where, size) ? layersOf(this.where, size) : [];
    const stack = el("div", { class: "stack" }, this.img, layers.length > 0 && this.#maps(layers, size));
    const facts = size.width && el("p", { class: "facts" }, `${size.width} \u00d7 ${size.height} px`);
    const abouts = layers.map(({ name, about }) => el("div", { class: `about-${name}` }, about));
    const turned = this.where && size.width && !layers.length && "This browser turns the picture otherwise, so there are no maps.";
    const caption = el("figcaption", {}, facts, turned && el("p", {}, turned), abouts);
    this.figure.replaceChildren(stack, ...(layers.length ? [gradients(), this.#controls(layers)] : []), caption);
  }

  #maps(layers, { width, height }) {
    const groups = layers.map(({ name, shapes }) => svg("g", { class: name }, shapes));
    const box = { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" };
    this.maps = svg("svg", { class: "maps", ...box }, groups);
    this.maps.style.opacity = this.#strength / 100;
    return this.maps;
  }

  #controls(layers) {
    const choices = [...layers.map(({ name }) => name), NONE].map((name) => this.#choice(name));
    const range = el("input", { type: "range", min: 10, max: 100, value: this.#strength });
    range.addEventListener("input", () => {
      this.#strength = range.value;
      this.maps.style.opacity = range.value / 100;
    });
    const strength = el("label", { class: "field", id: "strength" }, "Strength ", range);
    return el("form", { id: "layers" }, el("fieldset", {}, el("legend", {}, "Over the picture"), choices), strength);
  }

  #choice(name) {
    const radio = el("input", { type: "radio", name: "layer", id: `show-${name}`, checked: name === this.#layer });
    radio.addEventListener("change", () => (this.#layer = name));
    return el("label", {}, radio, ` ${name}`);
  }
}

function frame(said, where) {
  return el("p", { class: "frame" }, where ? `${said} So there are no maps.` : said);
}
