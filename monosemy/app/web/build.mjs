// Builds the pages into monosemy/app/static/ (or the folder given as the first argument).
//
// The output depends on nothing but the files hashed below, so that a test can tell without Node whether the built
// assets belong to their source: build.json records the hash of the source and of every built file.
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = resolve(process.argv[2] ?? join(here, "..", "static"));
const TOP = ["build.mjs", "package.json", "package-lock.json", "tsconfig.json"];
const COPIED = ["index.html", "icon.svg", "theme.js"];

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

function walk(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory() ? walk(join(folder, entry.name)) : [join(folder, entry.name)],
  );
}

// One line per file, "hash  path", sorted by path; hashed once more.
function sourceHash() {
  const paths = [...TOP.map((name) => join(here, name)), ...walk(join(here, "src"))]
    .map((path) => relative(here, path).split("\\").join("/"))
    .sort();
  return sha256(paths.map((path) => `${sha256(readFileSync(join(here, path)))}  ${path}\n`).join(""));
}

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
await build({
  entryPoints: [join(here, "src", "app.tsx"), join(here, "src", "graph.tsx"), join(here, "src", "style", "app.css")],
  entryNames: "[name]",
  outdir: out,
  bundle: true,
  format: "esm",
  target: ["es2022"],
  minify: true,
  legalComments: "none",
  jsx: "automatic",
  jsxImportSource: "preact",
  charset: "utf8",
  logLevel: "warning",
});
for (const name of COPIED) copyFileSync(join(here, "src", name), join(out, name));
const licence = readFileSync(join(here, "node_modules", "preact", "LICENSE"), "utf8");
writeFileSync(join(out, "LICENSES.txt"), `app.js and graph.js contain Preact:\n\n${licence}`);
const files = Object.fromEntries(walk(out).map((path) => [relative(out, path), sha256(readFileSync(path))]).sort());
writeFileSync(join(out, "build.json"), `${JSON.stringify({ source_sha256: sourceHash(), files }, null, 2)}\n`);
