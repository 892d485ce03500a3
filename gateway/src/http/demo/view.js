// What the page shows. Everything that came from others goes through textContent: never as HTML.

const STATES = {
  connecting: "Connecting",
  live: "Live",
  "not-live": "Connected, but the gateway is cut off from Redis",
  lost: "Connection lost, coming back",
  refused: "Not let in",
  stalled: "Waiting for a free connection",
};
const KEPT = 1000;

export function setState(state) {
  document.body.dataset.state = state;
  document.getElementById("state").textContent = STATES[state];
}

export function showPosition(id) {
  if (!id) return;
  document.body.dataset.lastId = id;
  document.getElementById("last-id").textContent = id;
}

// One notice of each kind; without a sentence it goes away. Some can be closed by hand.
export function notice(kind, sentence = "", closable = false) {
  const list = document.getElementById("notices");
  const old = list.querySelector(`[data-notice="${kind}"]`);
  if (!sentence) return void old?.remove();
  if (old?.firstChild.textContent === sentence) return;
  const element = make("p", sentence);
  element.dataset.notice = kind;
  if (closable) {
    const close = make("button", "Close");
    close.addEventListener("click", () => element.remove());
    element.append(" ", close);
  }
  if (old) old.replaceWith(element); else list.append(element);
}

// The messages, in the order of their ids, each once.
export class Log {
  #list = document.getElementById("log");
  #outbox = document.getElementById("outbox");
  #empty = document.getElementById("empty");
  #seen = new Set();
  #waiting = new Map();

  add({ name, id, from, text }) {
    if (id && this.#seen.has(id)) return;
    const atEnd = this.#list.scrollHeight - this.#list.scrollTop - this.#list.clientHeight < 40;
    const item = document.createElement("li");
    item.dataset.event = name;
    const head = make("span", from || "someone", "from");
    if (id) {
      this.#seen.add(id);
      item.dataset.id = id;
      head.append(" ", stamp(id));
    }
    item.append(head, make("span", text, "text"));
    this.#place(item, id);
    if (this.#list.childElementCount > KEPT) this.#list.firstElementChild.remove();
    if (atEnd) this.#list.scrollTop = this.#list.scrollHeight;
    this.done();
  }

  // Nearly always the end. Messages without an id are never repeated: they stay where they came.
  #place(item, id) {
    let before = this.#list.lastElementChild;
    while (id && before && !(before.dataset.id && compare(before.dataset.id, id) < 0)) {
      before = before.previousElementSibling;
    }
    if (before) before.after(item); else if (id) this.#list.prepend(item); else this.#list.append(item);
  }

  clear() {
    this.#seen.clear();
    this.#list.replaceChildren();
  }

  // Call it when the history is known: until then an empty list says nothing.
  done() {
    this.#empty.hidden = this.#list.childElementCount > 0;
  }

  outgoing(event, state, sentence = "") {
    let item = this.#waiting.get(event);
    if (state === "sent" || state === "refused") {
      this.#waiting.delete(event);
      return void item?.remove();
    }
    if (!item) {
      item = make("li", event.data.m);
      this.#waiting.set(event, item);
      this.#outbox.append(item);
    }
    item.dataset.sending = state;
    item.title = sentence;
  }
}

// Ids are `milliseconds-sequence`.
function compare(a, b) {
  const [x, y] = [a, b].map((id) => id.split("-").map(BigInt));
  const [i, j] = x[0] === y[0] ? [x[1], y[1]] : [x[0], y[0]];
  return i < j ? -1 : Number(i > j);
}

function stamp(id) {
  const date = new Date(Number(id.split("-")[0]));
  const element = make("time", date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  if (!Number.isNaN(date.valueOf())) element.dateTime = date.toISOString();
  element.title = id;
  return element;
}

function make(tag, text, className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (className) element.className = className;
  return element;
}
