// Publishing that survives lost connections: each event gets one idempotency key, and is sent again
// with the same key until there is an answer. However often it arrives, it is stored once. Events
// leave one after the other, so they are stored in the order in which they were given.

// `hear(event, "sending" | "retrying" | "sent" | "refused", sentence)` is told what becomes of each.
export function publisher(url, hear) {
  let last = Promise.resolve();
  return (event) => {
    hear(event, "sending");
    last = last.then(() => deliver(url, event, hear));
  };
}

async function deliver(url, event, hear) {
  const key = newKey();
  for (let delay = 500; ; delay = Math.min(delay * 2, 10_000)) {
    let trouble;
    try {
      const answer = await fetch(url, {
        method: "POST",
        headers: { "Content-Type": "application/json", "Idempotency-Key": key },
        body: JSON.stringify(event),
        signal: AbortSignal.timeout(5000),
      });
      if (answer.ok) return hear(event, "sent");
      trouble = await reason(answer);
      const passing = answer.status >= 500 || answer.status === 408 || answer.status === 429;
      if (!passing) return hear(event, "refused", trouble);
    } catch (error) {
      trouble = error.name === "TimeoutError" ? "no answer within 5 seconds" : "the gateway cannot be reached";
    }
    hear(event, "retrying", trouble);
    await new Promise((wake) => setTimeout(wake, delay * (0.5 + Math.random())));
  }
}

// The gateway answers refusals with one sentence; what stands before it may answer anything.
export async function reason(answer) {
  const body = await answer.json().catch(() => ({}));
  return typeof body.error === "string" ? body.error : `the answer was ${answer.status}`;
}

// randomUUID is missing where a page came over plain HTTP from another machine.
function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
