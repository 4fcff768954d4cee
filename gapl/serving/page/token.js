// The token that the service wants. It is kept until the tab is closed, and nowhere else.

import { get } from "./elements.js";

const KEPT = "gapl-token";

let asking = null; // what those wait for who need another token

export const token = () => sessionStorage.getItem(KEPT) ?? "";

// Ask for another token than the one that was used, unless there is one by now.
export function tokenAfter(used) {
  if (token() !== used) return Promise.resolve();
  asking ??= new Promise((resolve) => show(used, resolve)).finally(() => (asking = null));
  return asking;
}

function show(used, resolve) {
  const form = get("token");
  form.hidden = false;
  get("token-why").textContent = used
    ? "The service does not know this token: it is wrong, or no longer valid."
    : "This service answers only to those who have a token.";
  get("token-text").value = "";
  get("token-text").focus();
  form.onsubmit = (event) => {
    event.preventDefault();
    const text = get("token-text").value.trim();
    if (!isHeader(text)) {
      get("token-why").textContent = "That cannot be a token: it is empty, or has characters that no token has.";
      return;
    }
    sessionStorage.setItem(KEPT, text);
    form.hidden = true;
    get("file").focus();
    resolve();
  };
}

const isHeader = (text) => /^[!-~]+$/.test(text);
