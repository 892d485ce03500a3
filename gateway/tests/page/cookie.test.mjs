// A page of one origin, the gateway on another of the same site, and a cookie with a token that lives for some seconds.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import path from "node:path";
import { after, before, test } from "node:test";

import { chromium } from "playwright-core";

import { Gateway, Redis, directory, eventually, stop } from "./servers.mjs";

const SECRET = "a secret of at least 32 bytes, as HS256 wants";
const ROOM = "user:ann";
const WRAPPER = readFileSync(new URL("../../src/http/demo/stream.js", import.meta.url));
let redis, gateway, pages, browser, site, events;

function token(life) {
  const now = Math.floor(Date.now() / 1000);
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = { sub: "ann", iat: now, exp: now + life, sse: { subscribe: [ROOM] } };
  const text = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  return `${text}.${createHmac("sha256", SECRET).update(text).digest("base64url")}`;
}

// What a site has where its users sign in: `POST /token?life=3` sets the cookie. The cookie outlives its token here, so that an
// old one can be seen.
function answer(request, response) {
  const url = new URL(request.url, site);
  if (url.pathname === "/token") {
    const cookie = `sse_token=${token(Number(url.searchParams.get("life")))}`;
    response.setHeader("Set-Cookie", `${cookie}; Domain=example.test; Path=/rooms; HttpOnly; SameSite=Lax; Max-Age=600`);
    return void response.end();
  }
  const script = url.pathname === "/stream.js";
  response.setHeader("Content-Type", script ? "text/javascript" : "text/html");
  response.end(script ? WRAPPER : "<!doctype html><title>a page</title>");
}

before(async () => {
  redis = await new Redis().start();
  pages = createServer(answer);
  await new Promise((done) => pages.listen(0, "127.0.0.1", done));
  site = `http://www.example.test:${pages.address().port}`;
  gateway = await new Gateway("node-c", redis, {
    SSE_DEV: "false",
    SSE_ACCESS__SUBSCRIBE: "* token",
    SSE_TOKENS__KEYS: `HS256 base64:${Buffer.from(SECRET).toString("base64")}`,
    SSE_TOKENS__LEEWAY: "1s",
    SSE_HTTP__ALLOWED_ORIGINS: site,
    SSE_HTTP__DEMO: "true",
    SSE_STREAM__RETRY: "100ms",
    SSE_STREAM__RETRY_JITTER: "100ms",
  }).start();
  events = `http://events.example.test:${gateway.port}`;
  browser = await chromium.launchPersistentContext(path.join(directory, "cookies"), {
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    headless: true,
    args: [
      "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP *.example.test 127.0.0.1",
    ],
  });
});

after(async () => {
  await browser?.close();
  pages?.closeAllConnections();
  pages?.close();
  await stop();
});

async function openTab() {
  await browser.clearCookies();
  const tab = await browser.newPage();
  await tab.goto(`${site}/`);
  await tab.evaluate(() => {
    window.seen = { ids: [], closes: [], opens: 0, states: [] };
    window.renew = (life) => fetch(`/token?life=${life}`, { method: "POST" });
    window.note = {
      chat: (event) => seen.ids.push(event.lastEventId),
      "stream.open": () => { seen.opens++; },
      "stream.close": (event) => seen.closes.push(JSON.parse(event.data).reason),
      "stream.reset": () => { seen.reset = true; },
    };
  });
  return tab;
}

const seen = (tab) => tab.evaluate(() => window.seen);
const streamUrl = () => `${events}/rooms/${ROOM}/events`;

// As a page has it that copies nothing.
function openStream(tab) {
  return tab.evaluate((url) => {
    window.source = new EventSource(url, { withCredentials: true });
    for (const [name, listener] of Object.entries(window.note)) source.addEventListener(name, listener);
  }, streamUrl());
}

const isClosed = (tab) => tab.evaluate(() => source.readyState === EventSource.CLOSED);

function publish(text) {
  return redis.call("FCALL", "sse_publish", "1", `sse:room:${ROOM}`, "event", "chat", "data", text);
}

async function assertComplete(tab, from) {
  const ids = (await redis.ids(ROOM)).slice(from);
  await eventually(`the page has ${ids.at(-1)}`, async () => (await seen(tab)).ids.at(-1) === ids.at(-1));
  const { ids: received, reset } = await seen(tab);
  assert.deepEqual(received, ids, "each event once, in order");
  assert.equal(reset, undefined, "nothing was said to be lost");
}

test("a stream goes on from token to token, and an old cookie ends it", { timeout: 120_000 }, async () => {
  const tab = await openTab();
  await openStream(tab);
  await eventually("without a cookie the stream is refused", () => isClosed(tab));
  await tab.evaluate(() => renew(3));
  const from = (await redis.ids(ROOM)).length;
  await openStream(tab);
  await eventually("the stream opens", async () => (await seen(tab)).opens === 1);
  const renewing = setInterval(() => tab.evaluate(() => renew(3)).catch(() => {}), 1000);
  for (let number = 0; (await seen(tab)).opens < 3; number++) await publish(`while it is renewed ${number}`);
  clearInterval(renewing);
  await assertComplete(tab, from);
  // A starved browser drops the last block of an answer that breaks off, now and then: the node knows how often.
  assert.deepEqual(new Set((await seen(tab)).closes), new Set(["expired"]));
  const ended = await gateway.metric('sse_gateway_streams_closed_total{reason="expired"}');
  assert.ok(ended >= 2, `a stream ends with its token; ${ended} did`);

  // Nobody renews it any more: the browser comes back once with what it has.
  await eventually("the old cookie is refused", () => isClosed(tab));
  assert.equal((await browser.cookies(streamUrl())).length, 1, "the browser still has it");
  const answer = await tab.evaluate(async (url) => {
    const answer = await fetch(url, { credentials: "include", headers: { Accept: "application/json" } });
    return { status: answer.status, ...await answer.json() };
  }, streamUrl());
  assert.equal(answer.status, 401);
  assert.match(answer.error, /token/);
  await tab.close();
});

test("the wrapper comes back with the cookie that is there later, and misses nothing", { timeout: 120_000 }, async () => {
  const tab = await openTab();
  await tab.evaluate(() => renew(2));
  const from = (await redis.ids(ROOM)).length;
  await tab.evaluate(async (url) => {
    const { lastingEventSource } = await import("/stream.js");
    lastingEventSource(url, window.note, (state) => seen.states.push(state));
  }, streamUrl());
  await eventually("the stream opens", async () => (await seen(tab)).opens === 1);
  await publish("before the token ends");
  await eventually("the browser gives up", async () => (await seen(tab)).states.includes("closed"));
  for (let number = 0; number < 5; number++) await publish(`meanwhile ${number}`);
  await tab.evaluate(() => renew(60));
  await eventually("the stream opens again", async () => (await seen(tab)).opens === 2);
  await publish("afterwards");
  await assertComplete(tab, from);
  await tab.close();
});

test("the demo page says in a sentence that one is not let in, and why", { timeout: 60_000 }, async () => {
  const tab = await openTab();
  await tab.goto(`${events}/?room=${ROOM}`);
  const said = (status) => eventually(`the page says ${status}`, async () => {
    const text = await tab.locator('[data-notice="closed"]').textContent({ timeout: 1000 });
    return text.startsWith(`You may not watch this room (${status}): `);
  });
  await said(401);
  // The cookie is for another room.
  await tab.goto(`${site}/`);
  await tab.evaluate(() => fetch("/token?life=60", { method: "POST" }));
  await tab.goto(`${events}/?room=user:bob`);
  await said(403);
  await tab.goto(`${events}/?room=${ROOM}`);
  await eventually("it is live", async () => (await tab.evaluate(() => document.body.dataset.state)) === "live");
  assert.equal(await tab.locator('[data-notice="closed"]').count(), 0);
  await tab.close();
});
