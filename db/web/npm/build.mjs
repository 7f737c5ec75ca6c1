// Makes ../static/vendor/ of what package-lock.json pins: one ES module per library, its licence beside it.
import { createHash } from "node:crypto";
import { copyFile, mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const TARGET = new URL("../static/vendor/", import.meta.url);
const MODULES = new URL("node_modules/", import.meta.url);
const LIBRARIES = [
  { name: "uplot", entry: "uplot/dist/uPlot.esm.js", license: "uplot/LICENSE", style: "uplot/dist/uPlot.min.css" },
  { name: "idiomorph", entry: "idiomorph/dist/idiomorph.esm.js", license: "idiomorph/LICENSE" },
];

await rm(TARGET, { recursive: true, force: true });
await mkdir(TARGET, { recursive: true });
for (const { name, entry, license, style } of LIBRARIES) {
  const { version, license: terms } = JSON.parse(await readFile(new URL(`${name}/package.json`, MODULES)));
  await build({
    entryPoints: [new URL(entry, MODULES).pathname],
    outfile: new URL(`${name}.js`, TARGET).pathname,
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    legalComments: "none",
    banner: { js: `/* ${name} ${version}, ${terms}: ${name}.LICENSE */` },
  });
  await copyFile(new URL(license, MODULES), new URL(`${name}.LICENSE`, TARGET));
  if (style) await copyFile(new URL(style, MODULES), new URL(`${name}.css`, TARGET));
}

const sums = [];
for (const file of (await readdir(TARGET)).sort()) {
  const sum = createHash("sha256").update(await readFile(new URL(file, TARGET))).digest("hex");
  sums.push(`${sum}  ${file}\n`);
}
await writeFile(new URL("SHA256SUMS", TARGET), sums.join(""));
