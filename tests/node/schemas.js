// What Ajv, in strict mode, makes of the JSON Schemas in a folder: for each [FILE, DATA] of the JSON on standard input,
// whether DATA fits FILE. The first argument is the folder.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const Ajv = require("ajv/dist/2020");

const ajv = new Ajv({ strict: true, strictTypes: false });
const validators = new Map();
for (const file of fs.readdirSync(process.argv[2], { recursive: true })) {
  if (path.dirname(file) === "." || !file.endsWith(".json")) continue;
  validators.set(file, ajv.compile(JSON.parse(fs.readFileSync(path.join(process.argv[2], file), "utf8"))));
}
const samples = JSON.parse(fs.readFileSync(0, "utf8"));
console.log(JSON.stringify(samples.map(([file, data]) => validators.get(file)(data))));
