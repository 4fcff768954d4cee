// What is said of an image: its label by a rule, and the verdict in words.

import { capital } from "./elements.js";
import { likelier } from "./rules.js";

export const UNREADABLE = "unreadable"; // what an image is called that has no verdict

// Returns a label, UNREADABLE, or "" where the image is not judged yet.
export function labelBy({ state, row }, rule) {
  if (state === "failed") return UNREADABLE;
  return state === "judged" ? rule.label(row.score) : "";
}

export const canTryAgain = ({ state, isFinal }) => state === "failed" && !isFinal;

export function headline(image, rule) {
  if (image.state === "failed") return "Not judged";
  return image.state === "judged" ? capital(labelBy(image, rule)) : "Not judged yet";
}

export function lead(image, rule) {
  if (image.state !== "judged") return image.state === "failed" ? image.note : capital(image.note);
  const label = labelBy(image, rule);
  if (label === "unsure") return `The score decides nothing; it leans to ${likelier(image.row.score)}.`;
  return `${label === "fake" ? "A generator" : "No generator"} made this image, says the detector.`;
}
