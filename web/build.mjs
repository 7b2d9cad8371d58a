// Builds the library and the command (dist/lib), and the tests (build).
import { readdirSync, rmSync } from "node:fs";
import { build } from "esbuild";

const node = { bundle: true, format: "esm", platform: "node", target: "node20", packages: "external", logLevel: "warning" };

for (const folder of ["dist", "build"]) rmSync(folder, { recursive: true, force: true });

await build({ ...node, entryPoints: ["src/index.ts", "src/node.ts", "src/cli.ts"], outdir: "dist/lib", splitting: true });
await build({
  ...node,
  entryPoints: readdirSync("tests/unit").map((name) => `tests/unit/${name}`),
  outdir: "build/unit",
});
