// The last price of each symbol. The newest fifty events make the first paint; a browser that comes
// back goes on from the last one that it saw.
import { lastingEventSource } from "./demo/stream.js";

const rows = new Map();
const state = document.getElementById("state");

function row(symbol) {
  if (!rows.has(symbol)) {
    const line = document.getElementById("prices").insertRow();
    line.insertCell().textContent = symbol;
    rows.set(symbol, { line, price: line.insertCell(), change: line.insertCell() });
  }
  return rows.get(symbol);
}

function show(event) {
  const { symbol, price } = JSON.parse(event.data);
  const cells = row(symbol);
  const change = price - (cells.last ?? price);
  cells.last = price;
  cells.price.textContent = price.toFixed(2);
  cells.change.textContent = (change < 0 ? "" : "+") + change.toFixed(2);
  cells.line.dataset.trend = change < 0 ? "down" : "up";
}

lastingEventSource("rooms/stocks/events?recent=50", {
  "stream.open": (event) => { state.textContent = `Live, served by ${JSON.parse(event.data).node}`; },
  // Older prices are gone; the next ones say it all again.
  "stream.reset": () => {},
  price: show,
}, (now) => { if (now === "lost" || now === "closed") state.textContent = "Connection lost; coming back"; });
