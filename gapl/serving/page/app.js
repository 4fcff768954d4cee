// The page: takes images, has the service judge them, and shows a table of all, or the sheet of one.

import { listen } from "./chooser.js";
import { Comparison } from "./comparison.js";
import { download, toCsv } from "./csv.js";
import { get } from "./elements.js";
import { Images } from "./images.js";
import { News } from "./news.js";
import { Queue } from "./queue.js";
import { Rules } from "./rules.js";
import { askModel, patiently } from "./service.js";
import { Sheet } from "./sheet.js";
import { Table } from "./table.js";
import { canTryAgain } from "./verdict.js";

const images = new Images();
let views = null; // what shows images, once the detector is known

listen(take, tell);
const model = await connect();
if (model) start(model);

function take(files) {
  const added = images.add(files);
  views?.queue.add(added);
  const next = added.length === 1 ? `#image-${added[0].number}` : "#images";
  if (location.hash === next) route();
  else location.hash = next;
}

// What is told again would be read out again.
function tell(text) {
  if (get("trouble").textContent !== text) get("trouble").textContent = text;
}

async function connect() {
  const wait = (problem) => tell(`${problem.message} Images are judged as soon as it is.`);
  try {
    const found = await patiently(askModel, { wait, tries: Infinity });
    tell("");
    return found;
  } catch (problem) {
    tell(`${problem.message} Reload the page to try again.`);
    return null;
  }
}

function start(model) {
  const rules = new Rules(model);
  const queue = new Queue(images, model.limits);
  const again = (some) => queue.add(some);
  const table = new Table({ images, rules, again });
  const explore = (image) => queue.explore(image);
  const canExplore = model.limits.explored_megapixels !== null;
  const neighbours = (image) => table.neighbours(image);
  const sheet = new Sheet({ images, rules, explore, again, canExplore, neighbours });
  new Comparison({ images, rules });
  new News({ images, rules });
  views = { queue, table, sheet };
  describe(model);
  get("download").addEventListener("click", () => download("verdicts.csv", toCsv(table.shown, rules)));
  get("again").addEventListener("click", () => again(images.all.filter(canTryAgain)));
  get("clear").addEventListener("click", clear);
  window.addEventListener("hashchange", route);
  queue.add(images.all);
  route();
}

function describe({ model, model_sha256: sha256, views: looks, version }) {
  const name = model.split(/[/\\]/).at(-1); // without the folder of the service's machine
  get("detector").textContent = `Detector: ${name} (sha256 ${sha256}), views: ${looks}. gapl ${version}.`;
}

function clear() {
  images.clear();
  location.hash = "#images";
  route();
  get("file").focus();
}

// Show the sheet of the image that the address names, or else the table.
function route() {
  if (!views || location.hash === "#main") return; // where the skip link leads
  const image = images.get(Number(/^#image-(\d+)$/.exec(location.hash)?.[1])) ?? null;
  const wasSheet = !get("sheet").hidden;
  const { length } = images.all;
  get("input").classList.toggle("small", length > 0);
  get("list").hidden = image !== null || !length;
  views.table.arrange();
  views.sheet.show(image);
  if (wasSheet && !image) get("list-title").focus();
}
