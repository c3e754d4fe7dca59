// Makes the one script and the one style sheet that the Python package carries. `node build.mjs [FOLDER]`
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, "..", "src", "subcircuit", "report", "static");

// What the built files depend on, in the order of names: the stamp tells without Node whether they are of these sources.
function stamp() {
  const hash = createHash("sha256");
  const sources = readdirSync(join(here, "src"), { recursive: true }).map(String).filter((name) => /\.(tsx?|css)$/.test(name));
  for (const name of ["build.mjs", "package-lock.json", ...sources.map((name) => `src/${name}`)].sort()) {
    hash.update(`${name}\n`).update(readFileSync(join(here, name)));
  }
  return hash.digest("hex");
}

const options = {
  bundle: true,
  minify: true,
  write: false,
  charset: "utf8",
  legalComments: "none",
  target: ["es2022"],
  jsx: "automatic",
  jsxImportSource: "preact",
};
for (const [entry, name] of [["main.tsx", "viewer.js"], ["style.css", "viewer.css"]]) {
  const done = await build({ ...options, entryPoints: [join(here, "src", entry)], format: name.endsWith("js") ? "iife" : undefined });
  const text = `/* made by viewer/build.mjs of sources ${stamp()} */\n${done.outputFiles[0].text.trimEnd()}\n`;
  if (/<\/(script|style)|<!--/i.test(text)) throw new Error(`${name} holds text that would end its own element in HTML`);
  writeFileSync(join(out, name), text);
  console.log(`${name}: ${(text.length / 1024).toFixed(1)} kB`);
}
