// Keeps the small files of this folder, so that the page works without a network, and serves them with headers that
// a plain web server does not send: they allow threads (cross-origin isolation) and forbid every other address.
// worker.js keeps the large ones in the same cache: through here they would come slowly on a busy machine.

importScripts("files.js"); // CACHE, a name for this version of the files, and FILES, the paths of the small ones

const HEADERS = {
  "Content-Security-Policy":
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; " +
    "style-src 'self'; img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Opener-Policy": "same-origin",
  "Referrer-Policy": "no-referrer",
};
const ROOT = self.registration.scope;
const OURS = new Set(FILES.map((path) => new URL(path, ROOT).href));

self.addEventListener("install", () => self.skipWaiting());

self.addEventListener("activate", (event) => {
  const clean = async () => {
    const old = (await caches.keys()).filter((name) => name.startsWith(`${ROOT} `) && name !== `${ROOT} ${CACHE}`);
    await Promise.all(old.map((name) => caches.delete(name)));
    await self.clients.claim();
  };
  event.waitUntil(clean());
});

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  const path = url.href === ROOT ? new URL("index.html", ROOT).href : url.href;
  if (event.request.method === "GET" && OURS.has(path)) event.respondWith(serve(path, event));
});

async function serve(path, event) {
  const cache = await caches.open(`${ROOT} ${CACHE}`);
  let answer = await cache.match(path);
  if (!answer) {
    answer = withHeaders(await fetch(path, { cache: "no-cache" }));
    // A full disk is no reason to fail.
    if (answer.ok) event.waitUntil(cache.put(path, answer.clone()).catch(console.warn));
  }
  return answer;
}

function withHeaders({ body, status, statusText, headers }) {
  const all = new Headers(headers);
  for (const [name, value] of Object.entries(HEADERS)) all.set(name, value);
  return new Response(body, { status, statusText, headers: all });
}
