// Files that are chosen, dropped or pasted, also those in folders.

import { get } from "./elements.js";

// `take` gets a list of files, and `tell` what went wrong, in words, or nothing.
export function listen(take, tell) {
  const given = (files, otherwise, lost = 0) => {
    if (lost) tell(`${lost} of the files and folders could not be read.`);
    else tell(files.length ? "" : otherwise);
    if (files.length) take(files);
  };
  get("file").addEventListener("change", ({ target }) => {
    given([...target.files], "");
    target.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", (event) => {
    if (event.target.matches?.("input:not([type=file])")) return; // a text is pasted there
    given([...(event.clipboardData?.files ?? [])], "There is no image in the clipboard.");
  });
  listenToDrops(given);
}

function listenToDrops(given) {
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, async (event) => {
      event.preventDefault();
      get("drop").classList.toggle("over", name === "dragover");
      if (name !== "drop") return;
      const found = await filesOf(event.dataTransfer);
      const files = found.filter(Boolean);
      given(files, "That is no file. Save the image first, then drop it here.", found.length - files.length);
    });
  }
}

// Files, and null for each file or folder that cannot be read. What is dropped has to be listed at once: it is gone
// when the event is over.
async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.());
  if (!entries.some((entry) => entry?.isDirectory)) return [...transfer.files];
  return (await Promise.all(entries.filter(Boolean).map(filesIn))).flat();
}

// Hidden files are none that a user means.
async function filesIn(entry) {
  if (entry.name.startsWith(".")) return [];
  try {
    if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
    return (await Promise.all((await entriesIn(entry)).map(filesIn))).flat();
  } catch {
    return [null];
  }
}

// A reader hands out some entries at a time, and none when there are no more.
async function entriesIn(folder) {
  const reader = folder.createReader();
  const all = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return all;
    all.push(...some);
  }
}
