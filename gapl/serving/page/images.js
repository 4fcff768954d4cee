// The images of this visit, and what is known of each of them.

// Fires "add", "change" with the image as its `image`, and "clear".
//
// An image has a number, the file, its name, the address of its picture, and
//   state      waiting, judging, delayed, judged, failed
//   note       what the state means, in words
//   isFinal    of a failed one: the file is what is wrong
//   row        the answer of the service, once it is judged
//   closer     of the exploration: "" (nobody asked), looking, failed, done
export class Images extends EventTarget {
  #all = new Map();
  #next = 1;

  add(files) {
    const added = files.map((file) => this.#image(file));
    for (const image of added) this.#all.set(image.number, image);
    this.dispatchEvent(new Event("add"));
    return added;
  }

  update(image, found) {
    if (!this.#all.has(image.number)) return; // it was cleared
    Object.assign(image, found);
    this.dispatchEvent(Object.assign(new Event("change"), { image }));
  }

  clear() {
    for (const image of this.all) URL.revokeObjectURL(image.address);
    this.#all.clear();
    this.dispatchEvent(new Event("clear"));
  }

  get(number) {
    return this.#all.get(number);
  }

  get all() {
    return [...this.#all.values()];
  }

  count(...states) {
    return this.all.filter((image) => states.includes(image.state)).length;
  }

  #image(file) {
    const number = this.#next++;
    const name = file.name || "image";
    const address = URL.createObjectURL(file);
    return { number, file, name, address, state: "waiting", note: "waits", row: null, closer: "", closerNote: "" };
  }
}
