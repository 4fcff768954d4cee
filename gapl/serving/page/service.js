// Asks the service. What it refuses, and a connection that is lost, becomes a Problem in words.

import { sentence } from "./elements.js";
import { tokenAfter, token } from "./token.js";

const MOST_TRIES = 10; // of one request that is told to come again
const FORM_BYTES = 4096; // that a form adds to a file, at most
const MIB = 1 << 20;

export class Problem extends Error {
  // retryAfter   the seconds after which the service wants to be asked again; 0: it said nothing of that
  // isFinal      whether the file is what is wrong, so that nothing comes of another try
  // isLate       whether the time was over, so that another try at once would take as long
  constructor(words, { retryAfter = 0, isFinal = false, isLate = false } = {}) {
    super(sentence(words));
    Object.assign(this, { retryAfter, isFinal, isLate });
  }
}

export const askModel = () => ask("v1/model");
export const detect = (file, options) => judge("v1/detect?explain=true", file, options);
export const explore = (file, options) => judge("v1/explore", file, options);

// Does some work again for as long as the service tells to come again. `wait` is told of each pause.
// again   whether also after the time was over
export async function patiently(work, { signal, wait, tries = MOST_TRIES, again = true }) {
  for (let left = tries; ; left--) {
    try {
      return await work();
    } catch (problem) {
      if (!problem.retryAfter || left <= 1 || (problem.isLate && !again)) throw problem;
      wait(problem);
      await pause(problem.retryAfter, signal);
    }
  }
}

async function judge(path, file, { signal, maxBytes }) {
  if (file.size + FORM_BYTES > maxBytes) throw new Problem(tooLarge(maxBytes), { isFinal: true });
  await checkReadable(file);
  const form = new FormData();
  form.append("image", file, file.name || "image");
  const [row] = await ask(path, { method: "POST", body: form, signal });
  return row;
}

// A folder, and a file that has changed since it was chosen, fail like a lost connection would.
async function checkReadable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Problem("this file cannot be read any more: choose it again", { isFinal: true });
  }
}

async function ask(path, options = {}) {
  for (;;) {
    const used = token();
    const headers = used ? { Authorization: `Bearer ${used}` } : {};
    const answer = await send(path, { ...options, headers, cache: "no-store", credentials: "omit" });
    if (answer.ok) return answer.json();
    if (answer.status !== 401) throw await problemOf(answer);
    await tokenAfter(used);
  }
}

async function send(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Problem("the connection to the service was lost");
  }
}

async function problemOf(answer) {
  const said = await answer.json().catch(() => ({}));
  const kind = `${said.type}`.replace("urn:gapl:problem:", "");
  const retryAfter = Number(answer.headers.get("Retry-After")) || 0;
  const hasEnded = said.results?.[0]?.sha256 === ""; // what decoded it, or its time was over: another try may do
  const isFinal = [413, 422].includes(answer.status) && !hasEnded;
  return new Problem(wordsOf(kind, said, answer.status), { retryAfter, isFinal, isLate: kind === "too-late" });
}

function wordsOf(kind, { title, detail, max_bytes: maxBytes }, status) {
  if (kind === "unreadable") return detail;
  if (status === 413) return maxBytes ? tooLarge(maxBytes) : "the file is too large for the service";
  if (kind === "overloaded") return title;
  return title ? `${title}${detail ? `: ${detail}` : ""}` : `the service answered with the status ${status}`;
}

const tooLarge = (bytes) => `the file is too large: the service takes up to ${Math.floor((10 * bytes) / MIB) / 10} MiB`;

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
