// Builds dist/ in the current folder from src/: one style sheet, one script, the page, its icon and
// the licenses of the bundled packages.
import { build, transform } from "esbuild";
import { compile } from "sass";
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";

mkdirSync("dist", { recursive: true });
const { css } = compile("src/style.scss", { loadPaths: ["node_modules"], quietDeps: true });
const { code } = await transform(css, {
  loader: "css",
  minify: true,
  target: "es2022",
  legalComments: "none",
});
writeFileSync("dist/app.css", code);

const { metafile } = await build({
  entryPoints: ["src/app.tsx"],
  outfile: "dist/app.js",
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  metafile: true,
});
for (const file of ["index.html", "icon.svg"]) copyFileSync(`src/${file}`, `dist/${file}`);

const packages = new Set(["bulma"]);
for (const path of Object.keys(metafile.inputs)) {
  const name = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1];
  if (name) packages.add(name);
}
let licences = "The style sheet and the script in this folder contain parts of these packages.\n";
for (const name of [...packages].sort()) {
  const { version, license } = JSON.parse(
    readFileSync(`node_modules/${name}/package.json`, "utf8"),
  );
  const text = ["LICENSE", "LICENSE.md"]
    .map((file) => tryRead(`node_modules/${name}/${file}`))
    .find(Boolean);
  if (!text) throw new Error(`${name} has no license file`);
  licences += `\n== ${name} ${version}, ${license}\n\n${text.trim()}\n`;
}
writeFileSync("dist/LICENSES.txt", licences);

function tryRead(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}
