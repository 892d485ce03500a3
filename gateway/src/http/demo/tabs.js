// How many tabs of this page are open in this browser. A tab beyond the browser's limit of
// connections cannot even load the page, so the open ones have to say it.

export function countTabs(hear) {
  const channel = new BroadcastChannel("sse-gateway-demo");
  const me = Math.random();
  const tabs = new Set([me]);
  const say = (word) => channel.postMessage({ word, tab: me });
  channel.onmessage = ({ data: { word, tab } }) => {
    if (word === "bye") tabs.delete(tab); else tabs.add(tab);
    if (word === "hello") say("here");
    hear(tabs.size);
  };
  window.addEventListener("pagehide", () => say("bye"));
  window.addEventListener("pageshow", () => say("hello"));
}
