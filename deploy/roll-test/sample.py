#!/usr/bin/env python3
"""How many streams the nodes have opened and closed, ten times a second until it is ended.

  sample.py LEAVING OTHER...     admin addresses, host:port

Writes lines of: seconds since 1970, streams that the node which leaves has closed by its stop, streams that were opened by
the others and, once it is back, by the same node.
"""
import http.client
import re
import signal
import sys
import time
import urllib.request

CLOSED = re.compile(r'^sse_gateway_streams_closed_total\{[^}]*reason="drain"[^}]*\} (\S+)', re.M)
OPENED = re.compile(r'^sse_gateway_streams_opened_total(?:\{[^}]*\})? (\S+)', re.M)


def ask(address):
    """Streams that were closed by a stop, and streams that were opened; None where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=2) as answer:
            text = answer.read().decode()
    except (OSError, http.client.HTTPException):
        return None
    # An older version does not say why a stream was closed.
    found = CLOSED.search(text), OPENED.search(text)
    return [float(match[1]) if match else 0.0 for match in found]


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
leaving, *others = sys.argv[1:]
before = [0.0, 0.0]
closed = opened_before = 0.0
due = time.time()
while True:
    # While it is gone, what it said last stays.
    now = ask(leaving) or before
    if now[1] < before[1]:
        # Another process: it counts from 0 again.
        opened_before += before[1]
    before = now
    closed = max(closed, now[0])
    there = [ask(other) for other in others]
    if None in there:
        sys.exit("sample: a node that should be there does not answer")
    opened = opened_before + now[1] + sum(answer[1] for answer in there)
    print(f"{time.time():.3f} {closed:.0f} {opened:.0f}", flush=True)
    due = max(due + 0.1, time.time())
    time.sleep(max(0.0, due - time.time()))
