/**
 * The service worker: keeps what was loaded, so that the page works without a connection, and adds the headers that
 * allow threads where the host doesn't send them.
 */

/// <reference lib="webworker" />

declare const SHELL: readonly string[]; // as the following, esbuild puts them in
declare const VERSION: string;
declare const HEADERS: Readonly<Record<string, string>>;

const worker = self as unknown as ServiceWorkerGlobalScope;
const SHELL_CACHE = `scclip-shell-${VERSION}`;
/** Files of bundles, and whatever else was loaded. Those with their hash in the address are right for ever. */
const FILES_CACHE = "scclip-files";
const HASHED = /^\?[0-9a-f]{16}$/;

worker.addEventListener("install", (event) => {
  event.waitUntil(
    caches.open(SHELL_CACHE)
      .then((cache) => cache.addAll(SHELL.map((file) => new Request(file, { cache: "reload" }))))
      .then(() => worker.skipWaiting()),
  );
});

worker.addEventListener("activate", (event) => {
  event.waitUntil(
    caches.keys()
      .then((names) => names.filter((name) => name.startsWith("scclip-shell-") && name !== SHELL_CACHE))
      .then((old) => Promise.all(old.map((name) => caches.delete(name))))
      .then(() => worker.clients.claim()),
  );
});

worker.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET" || !request.url.startsWith("http")) return;
  event.respondWith(answer(event));
});

async function answer(event: FetchEvent): Promise<Response> {
  const { origin, search } = new URL(event.request.url);
  const response = (await shellFile(event.request)) ?? (HASHED.test(search) ? await keptForEver(event) : await newest(event));
  return origin === location.origin ? withHeaders(response) : response;
}

/** The page's own files belong together: they change when this worker does. */
async function shellFile(request: Request): Promise<Response | undefined> {
  const shell = await caches.open(SHELL_CACHE);
  return shell.match(request, { ignoreSearch: request.mode === "navigate" });
}

/** From the cache, else from the host; a request to reload asks the host, as what is kept may be damaged. */
async function keptForEver(event: FetchEvent): Promise<Response> {
  const { request } = event;
  const kept = request.cache === "reload" ? undefined : await (await caches.open(FILES_CACHE)).match(request);
  if (kept) return kept;
  const response = await fetch(request);
  keep(event, response, true);
  return response;
}

/** From the host, else what it gave before. */
async function newest(event: FetchEvent): Promise<Response> {
  try {
    const response = await fetch(event.request);
    keep(event, response, false);
    return response;
  } catch (error) {
    const kept = await (await caches.open(FILES_CACHE)).match(event.request);
    if (kept) return kept;
    throw error;
  }
}

/** Keep a copy while the page reads the answer. No room, or a connection lost on the way, leave nothing behind. */
function keep(event: FetchEvent, response: Response, alone: boolean): void {
  if (!response.ok) return;
  const copy = response.clone();
  const keeping = async (): Promise<void> => {
    const cache = await caches.open(FILES_CACHE);
    if (alone) await cache.delete(event.request, { ignoreSearch: true }); // other contents of the same file
    await cache.put(event.request, copy);
  };
  event.waitUntil(
    keeping().catch(async (error: unknown) => {
      if (!(error instanceof DOMException && error.name === "QuotaExceededError")) return;
      for (const client of await worker.clients.matchAll({ type: "window" })) client.postMessage("not kept");
    }),
  );
}

function withHeaders(response: Response): Response {
  if (response.status === 0 || response.type === "opaque") return response;
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
