// Real browsers on one room while nodes come and go. Prints a line once every tab's stream is open; when SIGUSR2
// comes, all is published: then each tab must have every event once and in order, and no stream may be closed.
//
//   node browsers.mjs URL ROOM PUBLISHED...
//
// PUBLISHED are files of JSON lines with an `id`, as `sse-publish --json` writes them. The browsers are those named by
// CHROMIUM and FIREFOX. The pages use a bare EventSource: what a wrapper would mend has to show here.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

import { Firefox } from "./firefox.mjs";

// More tabs than this would share six connections, and the seventh hangs.
const TABS = 4;
const [site, room, ...files] = process.argv.slice(2);
const published = new Promise((done) => process.once("SIGUSR2", done));
const tabs = [];

// Runs in the page.
function watch(url) {
  const seen = { ids: [], opens: 0, breaks: 0, closed: false, resets: [] };
  const source = new EventSource(url);
  source.onopen = () => { seen.opens += 1; };
  source.onerror = () => {
    seen.breaks += 1;
    seen.closed ||= source.readyState === EventSource.CLOSED;
  };
  source.addEventListener("number", (event) => seen.ids.push(event.lastEventId));
  source.addEventListener("stream.reset", (event) => seen.resets.push(event.data));
  // The page holds on to it: nothing else does.
  window.source = source;
  window.seen = seen;
}

async function eventually(look, within) {
  const deadline = Date.now() + within;
  for (;;) {
    if (await look()) return true;
    if (Date.now() > deadline) return false;
    await new Promise((done) => setTimeout(done, 200));
  }
}

async function openChromium(executablePath) {
  const { chromium } = createRequire(new URL("../../gateway/tests/page/", import.meta.url))("playwright-core");
  const args = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
  ];
  const browser = await chromium.launch({ executablePath, headless: true, args });
  // Two profiles, each with connections of its own.
  for (const profile of [1, 2]) {
    const context = await browser.newContext();
    for (let tab = 1; tab <= TABS; tab++) {
      const page = await context.newPage();
      await page.goto(`${site}/rooms/${room}`);
      await page.evaluate(watch, `${site}/rooms/${room}/events`);
      tabs.push({ name: `chromium ${profile}.${tab}`, seen: () => page.evaluate(() => window.seen) });
    }
  }
  return browser;
}

async function openFirefox(executable) {
  const browser = await Firefox.launch(executable);
  for (let tab = 1; tab <= TABS; tab++) {
    const page = await browser.newPage(`${site}/rooms/${room}`);
    await page.run(`(${watch})(${JSON.stringify(`${site}/rooms/${room}/events`)})`);
    tabs.push({ name: `firefox ${tab}`, seen: () => page.run("return window.seen") });
  }
  return browser;
}

// What is wrong with what a tab has seen, in words.
function faults(seen, ids) {
  const wrong = [];
  const missing = ids.filter((id) => !seen.ids.includes(id));
  const repeated = seen.ids.length - new Set(seen.ids).size;
  if (seen.closed) wrong.push("its stream is closed for good");
  if (missing.length) wrong.push(`${missing.length} events are missing, the first is ${missing[0]}`);
  if (repeated) wrong.push(`${repeated} events came twice`);
  if (!wrong.length && seen.ids.join() !== ids.join()) wrong.push("the order is not that of the ids, or there is more than was published");
  if (seen.resets.length) wrong.push(`it was told of a loss: ${seen.resets[0]}`);
  return wrong;
}

function order(one, other) {
  const [a, b] = [one, other].map((id) => id.split("-").map(Number));
  return a[0] - b[0] || a[1] - b[1];
}

const browsers = [];
let failed = false;
try {
  if (process.env.CHROMIUM) browsers.push(await openChromium(process.env.CHROMIUM));
  if (process.env.FIREFOX) browsers.push(await openFirefox(process.env.FIREFOX));
  const open = async () => (await Promise.all(tabs.map((tab) => tab.seen()))).every((seen) => seen.opens > 0);
  if (!(await eventually(open, 30_000))) throw new Error("the streams of the tabs do not open");
  console.log(`${tabs.length} tabs are open`);

  await published;
  const lines = files.flatMap((file) => readFileSync(file, "utf8").trim().split("\n"));
  const ids = lines.map((line) => JSON.parse(line).id).sort(order);
  if (!ids.length || ids.includes(undefined)) throw new Error("not every event was published");
  const all = async () => (await Promise.all(tabs.map((tab) => tab.seen()))).every((seen) => seen.closed || seen.ids.length >= ids.length);
  await eventually(all, 30_000);
  let [breaks, fewest] = [0, Infinity];
  for (const tab of tabs) {
    const seen = await tab.seen();
    breaks += seen.breaks;
    fewest = Math.min(fewest, seen.breaks);
    for (const fault of faults(seen, ids)) {
      failed = true;
      console.log(`${tab.name}: ${fault}`);
    }
  }
  const kinds = [process.env.CHROMIUM && "Chromium", process.env.FIREFOX && "Firefox"].filter(Boolean).join(" and ");
  if (!failed) {
    console.log(`${tabs.length} tabs of ${kinds}: ${ids.length} events each, none missing or twice; ` +
      `they lost their stream ${breaks} times (each at least ${fewest}) and came back by themselves`);
  }
} catch (error) {
  failed = true;
  console.log(`${error.message}`);
} finally {
  for (const browser of browsers) await browser.close().catch(() => {});
}
process.exit(failed ? 1 : 0);
