// Builds the library and the command (dist/lib), the page (dist/site), the page of `scclip serve` (build/served: `npm run
// served` puts it into scclip_rt, where it is kept), and the tests and tools (build).
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const SITE = "dist/site";
const RUNTIME = "../scclip_rt";
const SERVED_PAGE = `${RUNTIME}/serving/page`; // its look is both pages'
const SERVED = "build/served";
const ORT = "node_modules/onnxruntime-web/dist";

const CSP = [
  "default-src 'none'", "script-src 'self' 'wasm-unsafe-eval'", "worker-src 'self'", "connect-src 'self'",
  "img-src 'self' blob:", "style-src 'self'", "base-uri 'none'", "form-action 'none'",
].join("; ");
const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Content-Security-Policy": CSP,
  "X-Content-Type-Options": "nosniff",
};

const common = { bundle: true, format: "esm", logLevel: "warning" };
const node = { ...common, platform: "node", target: "node20", packages: "external" };
const browser = {
  ...common, platform: "browser", target: "es2022", minify: true, splitting: true, outdir: SITE,
  conditions: ["onnxruntime-web-use-extern-wasm"], // its .wasm and .mjs stay files, so that they are cached and allowed by the policy
};

function files(folder) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => `${entry.parentPath}/${entry.name}`.slice(folder.length + 1))
    .sort();
}

async function library() {
  await build({ ...node, entryPoints: ["src/index.ts", "src/node.ts", "src/node_worker.ts", "src/cli.ts"], outdir: "dist/lib", splitting: true });
  const types = spawnSync("node_modules/.bin/tsc", ["-p", "tsconfig.types.json"], { stdio: "inherit" });
  if (types.status !== 0) process.exit(1);
}

/** The HTML of one of the pages: what `<!-- static -->` or `<!-- served -->` begins is for that one, up to the next mark. */
function html(which) {
  const parts = readFileSync("page/index.html", "utf8").split(/^ *<!-- (static|served|end) -->\n/m);
  return parts.filter((_, at) => at % 2 === 0 && (at === 0 || [which, "end"].includes(parts[at - 1]))).join("");
}

async function served() {
  const banner = { js: "// Built from web/page by `npm run served`: change it there." };
  await build({ ...common, platform: "browser", target: "es2022", banner, entryPoints: { page: "page/served.ts" }, outdir: SERVED });
  writeFileSync(`${SERVED}/index.html`, html("served"));
}

async function page() {
  await build({ ...browser, entryPoints: ["page/page.ts", "page/worker.ts"] });
  mkdirSync(`${SITE}/ort`, { recursive: true });
  for (const name of ["ort-wasm-simd-threaded", "ort-wasm-simd-threaded.asyncify"]) {
    for (const end of ["mjs", "wasm"]) cpSync(`${ORT}/${name}.${end}`, `${SITE}/ort/${name}.${end}`);
  }
  for (const name of ["page.css", "favicon.svg"]) cpSync(`${SERVED_PAGE}/${name}`, `${SITE}/${name}`);
  cpSync(`${RUNTIME}/demo/scene.png`, `${SITE}/sample.png`);
  writeFileSync(`${SITE}/index.html`, html("static").replace("{{csp}}", CSP));
  const lines = Object.entries(HEADERS).map(([name, value]) => `  ${name}: ${value}\n`);
  writeFileSync(`${SITE}/_headers`, `/*\n${lines.join("")}`); // as Netlify and Cloudflare Pages read it
  await serviceWorker();
  cpSync(`${RUNTIME}/demo.scclip`, `${SITE}/demo.scclip`, { recursive: true });
}

/** What it keeps from the start is everything but the GPU's runtime, which few need. */
async function serviceWorker() {
  const shell = files(SITE).filter((name) => !name.includes("asyncify") && name !== "_headers");
  const hash = createHash("sha256");
  for (const name of shell) hash.update(name).update(readFileSync(`${SITE}/${name}`));
  const define = {
    SHELL: JSON.stringify(["./", ...shell.filter((name) => name !== "index.html")]),
    VERSION: JSON.stringify(hash.digest("hex").slice(0, 16)),
    HEADERS: JSON.stringify(HEADERS),
  };
  await build({ ...common, format: "iife", minify: true, target: "es2022", entryPoints: ["page/sw.ts"], outdir: SITE, define });
}

async function tests() {
  for (const folder of ["unit", "browser"]) {
    const entryPoints = readdirSync(`tests/${folder}`).map((name) => `tests/${folder}/${name}`);
    await build({ ...node, entryPoints, outdir: `build/${folder}` });
    await build({ ...node, entryPoints: ["src/node_worker.ts"], outdir: `build/${folder}` });
  }
}

/** The scripts that measure and draw, and what one of them runs in a browser. */
async function tools() {
  await build({ ...node, entryPoints: ["tools/bench.ts", "tools/pictures.ts"], outdir: "build/tools" });
  await build({ ...node, entryPoints: ["src/node_worker.ts"], outdir: "build/tools" });
  await build({ ...browser, entryPoints: ["tools/bench_worker.ts"], outdir: "build/bench" });
}

for (const folder of ["dist", "build"]) rmSync(folder, { recursive: true, force: true });
await Promise.all([library(), page(), served(), tests(), tools()]);
if (process.argv.includes("--served")) cpSync(SERVED, SERVED_PAGE, { recursive: true });
