// The choice of the rules that decide, and what changes from one to the other.

import { el, get } from "./elements.js";
import { labelBy } from "./verdict.js";

const NOTHING = "nothing";
const ABOUT = { balanced: "from there on a fake is likelier" };

export class Comparison {
  constructor({ images, rules }) {
    Object.assign(this, { images, rules });
    get("point").append(...rules.all.map(option));
    get("other").append(el("option", { value: NOTHING }, NOTHING), ...rules.all.map(option));
    get("point").addEventListener("change", () => this.#choose());
    get("other").addEventListener("change", () => this.#choose());
    for (const event of ["change", "clear"]) images.addEventListener(event, () => this.#tell());
    this.#choose();
  }

  #choose() {
    const other = get("other").value;
    const chosen = this.rules.named(get("point").value);
    this.rules.choose({ chosen, other: other === NOTHING ? null : this.rules.named(other) });
    for (const each of get("other").options) each.disabled = each.value === chosen.name;
    if (!this.rules.other) get("other").value = NOTHING;
    get("by-point").textContent = this.rules.other ? `By ${chosen.title}` : "Verdict and score";
    get("by-other").textContent = this.rules.other ? `By ${this.rules.other.title}` : "";
    for (const id of ["by-other", "changed-only"]) get(id).hidden = !this.rules.other;
    this.#tell();
  }

  // How many labels change, and which into which.
  #tell() {
    const { chosen, other } = this.rules;
    get("comparison").hidden = !other;
    if (!other) return;
    const judged = this.images.all.filter(({ state }) => state === "judged");
    const pairs = judged.map((image) => [chosen, other].map((rule) => labelBy(image, rule)));
    const changes = pairs.filter(([one, two]) => one !== two).map(([one, two]) => `${one} to ${two}`);
    const counted = Object.entries(Object.groupBy(changes, (change) => change));
    const kinds = counted.map(([change, all]) => `${all.length} from ${change}`).join(", ");
    get("comparison").textContent =
      `${changes.length} of ${judged.length} labels change from ${chosen.title} (${chosen.words}) to ` +
      `${other.title} (${other.words})${kinds && `: ${kinds}`}.`;
  }
}

function option(rule) {
  const share = /^fpr(\d+)$/.exec(rule.name)?.[1];
  const about = share ? `at most ${share} % of real images called fake` : ABOUT[rule.name];
  return el("option", { value: rule.name }, about ? `${rule.title}: ${about}` : rule.title);
}
