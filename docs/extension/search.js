// The site's own search without a browser: `node search.js SITE`, with a JSON list of queries as its input, prints for each
// of them the pages that it finds, the first one first.
"use strict";

const { readFileSync } = require("node:fs");
const { join } = require("node:path");
const vm = require("node:vm");

const site = process.argv[2];
const document = {
  readyState: "loading", // so that no script begins by itself
  addEventListener() {},
  getElementById: () => null,
  documentElement: { dataset: {} },
};
const localStorage = { getItem: () => null, setItem() {} };
const page = vm.createContext({ document, localStorage, URLSearchParams, console });
page.window = page;

// In the order of the page of the search; what the theme adds is for the eyes.
const html = readFileSync(join(site, "search.html"), "utf8");
const scripts = [...html.matchAll(/<script[^>]* src="([^"?]+)/g)].map((found) => found[1]);
const needed = scripts.filter((script) => /^(_static\/(?!scripts|copybutton)|searchindex)/.test(script));
if (!needed.includes("searchindex.js")) needed.push("searchindex.js");
for (const script of needed) vm.runInContext(readFileSync(join(site, script), "utf8"), page, { filename: script });

const search = vm.runInContext("(query) => Search._performSearch(...Search._parseQuery(query))", page);
const queries = JSON.parse(readFileSync(0, "utf8"));
const found = queries.map((query) => search(query).reverse().map((result) => result[0]));
process.stdout.write(JSON.stringify(found));
