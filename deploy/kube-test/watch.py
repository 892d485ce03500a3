"""Looks at the gateways several times a second: a line of JSON for how all pods are, and one for what each says. Each is
asked by a thread of its own, so that one that has just ended, and does not answer, holds up no other.

    watch.py API NAMESPACE SELECTOR
"""

import json, sys, threading, time, urllib.parse, urllib.request

base, namespace, selector = sys.argv[1:]
pods = f"{base}/api/v1/namespaces/{namespace}/pods"
wanted = {
    "sse_gateway_streams_opened_total": "opened",
    'sse_gateway_streams_closed_total{reason="drain"}': "drained",
}
asked = {}


def get(url):
    with urllib.request.urlopen(url, timeout=3) as answer:
        return answer.read().decode()


def say(what):
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def ask(name, gone):
    while not gone.wait(0.2):
        # One that has not begun, or has just ended, does not answer.
        try:
            lines = [line.rpartition(" ") for line in get(f"{pods}/{name}:9080/proxy/metrics").splitlines()]
            say({"pod": name, "at": time.time()} | {wanted[metric]: float(n) for metric, _, n in lines if metric in wanted})
        except OSError:
            pass


while True:
    try:
        items = json.loads(get(f"{pods}?labelSelector={urllib.parse.quote(selector)}"))["items"]
    except OSError:
        continue
    finally:
        time.sleep(0.25)
    states = {}
    for pod in items:
        status = pod["status"]
        states[pod["metadata"]["name"]] = {
            "going": "deletionTimestamp" in pod["metadata"],
            "ready": any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", [])),
            "restarts": sum(c["restartCount"] for c in status.get("containerStatuses", [])),
        }
    say({"at": time.time(), "pods": states})
    for name in states.keys() - asked.keys():
        asked[name] = threading.Event()
        threading.Thread(target=ask, args=(name, asked[name]), daemon=True).start()
    for name in asked.keys() - states.keys():
        asked[name].set()
