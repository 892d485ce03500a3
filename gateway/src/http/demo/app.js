// The chat room: history for the first paint, then the stream from where the history ends.

import { lastingEventSource } from "./stream.js";
import { publisher, reason } from "./publish.js";
import { countTabs } from "./tabs.js";
import { Log, notice, setState, showPosition } from "./view.js";

const params = new URLSearchParams(location.search);
const room = params.get("room") || "demo";
const url = `rooms/${encodeURIComponent(room)}/events`;
const page = document.body;
const log = new Log();

const LIMIT = 6;
const SIX = "Over HTTP/1.1 a browser opens six connections to one server, for all tabs together, and "
  + "each tab of this page holds one. If you have six or more open, close one: the others go on by themselves. "
  + "Over HTTP/2 there is no such limit.";
const RESET = {
  trimmed: "older messages were dropped before you came back",
  unknown: "this room does not know the last message that you saw",
  future: "this room is not as far as the last message that you saw",
  malformed: "the position could not be read",
  deleted: "the history of this room was deleted",
  fork: "the room goes on from an older copy of itself",
};

// --- The stream's state -------------------------------------------------------------------------

let stalled;
// A connection beyond the browser's limit neither opens nor fails: only time tells.
function expectOpen(within) {
  clearTimeout(stalled);
  stalled = setTimeout(() => {
    setState("stalled");
    notice("stalled", `The stream has not opened for ${within / 1000} seconds. ${SIX}`);
  }, within);
}

function onState(state) {
  if (state === "open") return; // `stream.open` follows, and says more
  if (state === "closed") {
    clearTimeout(stalled);
    setState("lost");
    // An EventSource is not told why; this is.
    return void loadHistory().catch(tell);
  }
  setState(state);
  // After a loss, the browser first waits as long as the gateway asked it to.
  expectOpen(state === "lost" ? 15_000 : 5000);
}

let silence;
let beats = false;
// A link can die without a word. Once heartbeats have been seen, their absence is noticed: they
// come once a minute at the least.
function heard() {
  clearTimeout(silence);
  if (beats) silence = setTimeout(() => stream.connect(), 75_000);
}

// --- History ------------------------------------------------------------------------------------

let complete = false;
// Merges the newest messages into the list. Returns the position to stream from.
async function loadHistory() {
  const answer = await fetch(`${url}?limit=100`, { headers: { Accept: "application/json" } });
  if (!answer.ok) throw Object.assign(new Error(await reason(answer)), { status: answer.status });
  const history = await answer.json();
  for (const event of history.events) show(event.event || "message", event.id, event.data);
  complete = true;
  notice("history");
  notice("closed");
  log.done();
  return history.last_id;
}

// Why there is no history. Who is not let in has no stream either.
function tell({ status, message }) {
  const kept = status === 401 || status === 403;
  if (kept) setState("refused");
  notice("closed", kept ? `You may not watch this room (${status}): ${message}.` : "");
  notice("history", kept ? "" : `The history cannot be loaded: ${message}.`);
}

// --- Events -------------------------------------------------------------------------------------

// Other names than these can be watched with ?event=NAME.
const names = ["message", "chat", ...params.getAll("event")];

function show(name, id, data) {
  if (names.includes(name)) log.add({ name, id, ...read(data) });
}

// Data is a JSON object with the text in `m`, or just text.
function read(data) {
  try {
    const value = JSON.parse(data);
    if (typeof value?.m === "string") return { from: String(value.name ?? ""), text: value.m };
  } catch { /* just text */ }
  return { from: "", text: data };
}

function parse(event) {
  try { return JSON.parse(event.data) ?? {}; } catch { return {}; }
}

// Every listener also tells the page that the link lives, and where the stream is.
function listening(handlers) {
  const wrap = (handler) => (event) => {
    heard();
    showPosition(event.lastEventId);
    handler(event);
  };
  return Object.fromEntries(Object.entries(handlers).map(([name, handler]) => [name, wrap(handler)]));
}

function live(isLive) {
  setState(isLive ? "live" : "not-live");
  if (isLive && !complete) loadHistory().catch(() => {});
}

const control = {
  "stream.open": (event) => {
    const { node = "", live: isLive = true } = parse(event);
    clearTimeout(stalled);
    notice("stalled");
    page.dataset.node = node;
    document.getElementById("node").textContent = node || "–";
    live(isLive);
  },
  "stream.live": (event) => live(parse(event).live !== false),
  "stream.reset": (event) => {
    const why = parse(event).reason;
    notice("reset", `Some messages may be missing: ${RESET[why] || "it cannot be proved that you saw all"}. `
      + "What the room still has was loaded again.", true);
    page.dataset.reset = why || "unknown";
    if (why === "deleted" || why === "fork") log.clear();
    loadHistory().catch(tell);
  },
  "stream.close": (event) => {
    page.dataset.closed = parse(event).reason || "unknown";
    setState("lost");
  },
  "stream.heartbeat": () => { beats = true; heard(); },
};

let typing;
function showTyping(event) {
  const element = document.getElementById("typing");
  element.textContent = `${read(event.data).text.slice(0, 40)} is typing…`;
  clearTimeout(typing);
  typing = setTimeout(() => { element.textContent = ""; }, 3000);
}

// --- Start --------------------------------------------------------------------------------------

let stream;
async function start() {
  setState("connecting");
  expectOpen(5000);
  let from = "";
  try {
    from = await loadHistory() || "";
  } catch (error) {
    // The stream opens all the same; the history follows when the gateway is live.
    tell(error);
  }
  const shown = names.map((name) => [name, (event) => show(name, event.lastEventId, event.data)]);
  const listeners = { typing: showTyping, ...Object.fromEntries(shown), ...control };
  stream = lastingEventSource(`${url}?heartbeat=event`, listening(listeners), onState, from);
}

const form = document.getElementById("send");
const send = publisher(url, (event, state, sentence) => {
  log.outgoing(event, state, sentence);
  if (state === "refused") {
    notice("refused", `Not sent: ${sentence}`, true);
    form.elements.text.value ||= event.data.m;
  }
  if (state === "retrying") notice("sending", `Not sent yet: ${sentence}. Trying again.`);
  if (state === "sent") notice("sending");
});

form.addEventListener("submit", (submit) => {
  submit.preventDefault();
  const { name, text } = form.elements;
  if (!text.value.trim()) return;
  remember(name.value);
  notice("refused");
  send({ event: "chat", data: { name: name.value, m: text.value } });
  text.value = "";
  text.focus();
});

// Storage may be switched off.
function remember(name) {
  try { localStorage.setItem("name", name); } catch { /* asked for again */ }
}
function remembered() {
  try { return localStorage.getItem("name"); } catch { return null; }
}

const hop = performance.getEntriesByType("navigation")[0]?.nextHopProtocol;
if (hop === "http/1.1") {
  countTabs((tabs) => {
    const full = tabs >= LIMIT;
    notice("tabs", full ? `${tabs} tabs of this page are open: one more would hang, and nothing can be sent. ${SIX}` : "");
  });
}

form.elements.name.value = remembered() || `guest-${Math.floor(Math.random() * 900 + 100)}`;
document.title = `${room} · live room`;
document.getElementById("room").textContent = room;
const full = new URL(url, document.baseURI);
document.getElementById("watch").textContent = `curl -N ${full}`;
document.getElementById("publish").textContent = `curl -d '{"event":"chat","data":{"name":"curl","m":"hi"}}' ${full}`;
// A page that the browser keeps for the back button would keep its connection too.
window.addEventListener("pagehide", () => stream?.close());
window.addEventListener("pageshow", (event) => { if (event.persisted) stream?.connect(); });
window.addEventListener("online", () => { if (page.dataset.state !== "live") stream?.connect(); });
start();
