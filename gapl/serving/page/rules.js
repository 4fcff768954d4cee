// Which scores are called what: by the detector's own thresholds, or by one of its operating points.

export const LABELS = ["fake", "real", "unsure"];

// Fires "change" when another rule decides, or is compared with.
export class Rules extends EventTarget {
  chosen = null; // the rule that decides
  other = null; // the one that it is compared with, if any

  // model: the answer of /v1/model
  constructor({ calibration, threshold }) {
    super();
    const band = calibration ? [calibration.band_low, calibration.band_high] : [threshold, threshold];
    const points = Object.entries(calibration?.operating_points ?? {});
    this.all = [new Rule("", ...band), ...points.map(([name, at]) => new Rule(name, at, at))];
    this.chosen = this.all[0];
  }

  choose({ chosen = this.chosen, other = this.other }) {
    Object.assign(this, { chosen, other: other === chosen ? null : other });
    this.dispatchEvent(new Event("change"));
  }

  named(name) {
    return this.all.find((rule) => rule.name === name) ?? null;
  }
}

class Rule {
  constructor(name, realBelow, threshold) {
    Object.assign(this, { name, realBelow, threshold });
  }

  get title() {
    return this.name || "the detector's thresholds";
  }

  get hasBand() {
    return this.realBelow < this.threshold;
  }

  // Both ends of the unsure band belong to it.
  label(score) {
    if (this.hasBand && this.realBelow <= score && score <= this.threshold) return "unsure";
    return score >= this.threshold ? "fake" : "real";
  }

  get words() {
    const fake = `fake from ${this.threshold.toFixed(3)} on`;
    return this.hasBand ? `real below ${this.realBelow.toFixed(3)}, ${fake}, between unsure` : `${fake}, else real`;
  }
}

// The class that a score makes likelier, whatever the rule says.
export const likelier = (score) => (score >= 0.5 ? "fake" : "real");
