// An EventSource that lasts. Copy this file: it needs nothing else.
//
// Browsers reconnect by themselves, with the id of the last event, after a connection that broke.
// They give up for good (readyState CLOSED) when anything answers with another status than 200,
// such as a load balancer that has no server left for a moment. Then this makes a new EventSource,
// after a delay that grows and is drawn anew for each client, and says in the URL where to go on.
//
//   const stream = lastingEventSource("rooms/demo/events", {
//     chat: (event) => show(event.data),
//     "stream.reset": () => reload(),        // events are gone: load the present state again
//   });
//
// `listeners` must name every event that the page uses: "message" stands for events without a
// name. `onState` hears "connecting", "open", "lost", and "closed": the browser gave up, and
// tells no reason; a `fetch` of the same URL with `Accept: application/json` does. `lastId` is where
// to begin: the `last_id` of a history answer. To another origin cookies are sent along, unless
// `withCredentials` is false, as it has to be where that origin takes none from this page.
// `connect()` starts again at once, from the last id; `close()` ends it.
export function lastingEventSource(url, listeners, onState = () => {}, lastId = "", { withCredentials = true } = {}) {
  let source, timer, delay = 1000;
  const close = () => { clearTimeout(timer); source?.close(); };
  function connect() {
    close();
    const target = new URL(url, document.baseURI);
    // When the browser comes back by itself, its Last-Event-ID header wins over this.
    if (lastId) target.searchParams.set("lastEventId", lastId);
    source = new EventSource(target, { withCredentials });
    onState("connecting");
    source.onopen = () => { delay = 1000; onState("open"); };
    source.onerror = () => {
      const gaveUp = source.readyState === EventSource.CLOSED;
      if (gaveUp) {
        // Before `onState`, which may call `close()` or `connect()`.
        timer = setTimeout(connect, delay * (0.5 + Math.random()));
        delay = Math.min(delay * 2, 30_000);
      }
      onState(gaveUp ? "closed" : "lost");
    };
    for (const [name, listener] of Object.entries(listeners)) {
      source.addEventListener(name, (event) => {
        lastId = event.lastEventId || lastId;
        listener(event);
      });
    }
  }
  connect();
  return { connect, close, get lastId() { return lastId; } };
}
