// Sorts and filters what is on the page.
const get = (id) => document.getElementById(id);
const cards = [...get("cards").children];
const failures = [...document.querySelectorAll(".failures > li")];
const items = [...cards, ...failures].map((element) => ({
  element,
  label: element.dataset.label,
  score: Number(element.dataset.score),
  name: element.querySelector(".name").textContent,
  // Of the image, of its duplicates, and its warnings
  text: [...element.querySelectorAll(".name, .why, li")].map((part) => part.textContent).join("\n").toLowerCase(),
}));
const inOrder = new Intl.Collator(undefined, { numeric: true });
const ORDERS = {
  fake: (a, b) => b.score - a.score,
  real: (a, b) => a.score - b.score,
  unclear: (a, b) => Math.abs(a.score - 0.5) - Math.abs(b.score - 0.5),
  name: (a, b) => inOrder.compare(a.name, b.name),
};

function filter() {
  const labels = new Set([...document.querySelectorAll("fieldset input:checked")].map((box) => box.value));
  const wanted = get("name").value.trim().toLowerCase();
  let shown = 0;
  let failed = 0;
  for (const item of items) {
    const isShown = labels.has(item.label) && item.text.includes(wanted);
    item.element.hidden = !isShown;
    shown += isShown;
    failed += isShown && item.label === "unreadable";
  }
  get("unreadable").hidden = !failed;
  get("none").hidden = shown > 0;
  get("shown").textContent = `${shown.toLocaleString("en")} of ${items.length.toLocaleString("en")} shown`;
}

function sort() {
  const order = ORDERS[get("order").value];
  const list = get("cards");
  for (const { element } of items.slice(0, cards.length).sort(order)) list.append(element);
}

get("controls").hidden = false;
get("controls").addEventListener("submit", (event) => event.preventDefault());
get("controls").addEventListener("input", filter);
get("order").addEventListener("change", sort);
sort();
filter();
