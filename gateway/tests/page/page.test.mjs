// Two tabs of the demo page, two nodes behind HAProxy, and kills: nothing missing, nothing twice.

import assert from "node:assert/strict";
import path from "node:path";
import { after, before, test } from "node:test";

import { chromium } from "playwright-core";

import { Gateway, HaProxy, Redis, directory, eventually, stop } from "./servers.mjs";

const ROOM = "demo";
let redis, nodes, haproxy, browser;

before(async () => {
  redis = await new Redis().start();
  nodes = [await new Gateway("node-a", redis).start(), await new Gateway("node-b", redis).start()];
  haproxy = await new HaProxy().start(nodes);
  browser = await chromium.launchPersistentContext(path.join(directory, "profile"), {
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    headless: true,
    args: [
      "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync",
    ],
  });
  // The page shows each id once whatever arrives, so what arrives is written down before that.
  await browser.addInitScript(() => {
    const ids = [];
    window.receivedIds = ids;
    window.EventSource = class extends window.EventSource {
      constructor(...args) {
        super(...args);
        for (const name of ["message", "chat"]) this.addEventListener(name, (event) => ids.push(event.lastEventId));
      }
    };
  });
});

after(async () => {
  await browser?.close();
  await stop();
});

async function openTab() {
  const tab = await browser.newPage();
  tab.on("pageerror", (error) => assert.fail(`the page threw: ${error}`));
  await tab.goto(`${haproxy.url}/?room=${ROOM}`);
  await live(tab);
  return tab;
}

const data = (tab, name) => tab.evaluate((key) => document.body.dataset[key], name);

function live(tab) {
  return eventually("the tab is live", async () => (await data(tab, "state")) === "live");
}

async function publish(count, text) {
  for (let number = 0; number < count; number++) {
    const body = JSON.stringify({ name: "test", m: `${text} ${number}` });
    await redis.call("FCALL", "sse_publish", "1", `sse:room:${ROOM}`, "event", "chat", "data", body);
  }
}

async function say(tab, text) {
  await tab.fill("#text", text);
  await tab.press("#text", "Enter");
}

function shows(tab, text) {
  const look = () => tab.locator("#log li .text", { hasText: text }).count();
  return eventually(`the tab shows ${text}`, async () => (await look()) === 1);
}

// A page that was loaded just now begins with the newest of the history.
async function assertComplete(tab, name, newest = Infinity) {
  const ids = (await redis.ids(ROOM)).slice(-newest);
  await eventually(`${name} is at ${ids.at(-1)}`, async () => (await data(tab, "lastId")) === ids.at(-1));
  const shown = await tab.locator("#log li[data-id]").evaluateAll((items) => items.map((item) => item.dataset.id));
  assert.deepEqual(shown, ids, `${name} shows what the stream has`);
  const received = await tab.evaluate(() => window.receivedIds);
  assert.equal(new Set(received).size, received.length, `${name} received an id twice`);
  assert.equal(await data(tab, "reset"), undefined, `${name} was told of a loss`);
}

test("two tabs through node kills: nothing missing, nothing twice", { timeout: 180_000 }, async () => {
  await publish(20, "before");
  const [one, two] = [await openTab(), await openTab()];
  await say(one, "hello from one");
  await shows(two, "hello from one");
  await say(two, "hello from two");
  await shows(one, "hello from two");

  for (let round = 0; round < 3; round++) {
    const name = await data(one, "node");
    const node = nodes.find((candidate) => candidate.name === name);
    assert.ok(node, `the page names its node: ${name}`);
    const publishing = publish(60, `round ${round}`);
    await node.kill();
    await publishing;
    await eventually("tab one is on the other node", async () => (await data(one, "node")) !== name);
    for (const tab of [one, two]) await live(tab);
    await assertComplete(one, "tab one");
    await assertComplete(two, "tab two");
    await node.start();
    await eventually(`${name} is used again`, async () => (await haproxy.node()) === name);
  }

  await say(one, "still here");
  await shows(two, "still here");
  await one.reload();
  await live(one);
  await assertComplete(one, "tab one, after a reload", 100);
  await assertComplete(two, "tab two");
});
