#!/usr/bin/env python3
"""Asks a Prometheus every query of the dashboards and alerts, until each has found data: queries.py URL"""

import json
import pathlib
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).parent
PATIENCE = 60
# Only there where the memory of a gateway has a limit.
LIMITED = "sse_gateway_memory_"


def ask(url, query):
    data = urllib.parse.urlencode({"query": query}).encode()
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query", data, timeout=10) as answer:
            return json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        sys.exit(f"{query}\nis refused: {json.load(error).get('error')}")
    except OSError:
        return []


def dashboards():
    for path in sorted((HERE / "../grafana").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                query = target["expr"].replace("$__rate_interval", "5s").replace("$instance", ".*")
                yield f"{path.stem}: {panel['title']}", query


def alerts(url):
    with urllib.request.urlopen(f"{url}/api/v1/rules", timeout=10) as answer:
        groups = json.load(answer)["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def main(url):
    waiting = list(dashboards())
    count = len(waiting)
    skipped = set()
    deadline = time.monotonic() + PATIENCE
    while waiting and time.monotonic() < deadline:
        waiting = [(where, query) for where, query in waiting if not ask(url, query)]
        time.sleep(0.5)
    if not ask(url, '{__name__=~"' + LIMITED + '.*"}'):
        skipped = {of for of in waiting if LIMITED in of[1]}
        print("not looked at: memory has no limit here", file=sys.stderr)
    waiting = [of for of in waiting if of not in skipped]
    for where, query in waiting:
        print(f"no data: {where}\n  {query}", file=sys.stderr)
    rules = alerts(url)
    sick = [rule["name"] for rule in rules if rule["health"] not in ("ok", "unknown")]
    for name in sick:
        print(f"cannot be evaluated: {name}", file=sys.stderr)
    # A comparison leaves nothing where all is well; what is compared has to be there.
    for rule in rules:
        for metric in set(re.findall(r"(?:sse_gateway|process)_[a-z_]+|\bup\b", rule["query"])):
            if not ask(url, metric) and not (skipped and LIMITED in metric):
                print(f"{rule['name']} is about {metric}, which nobody has", file=sys.stderr)
                sick.append(rule["name"])
    if waiting or sick or not rules:
        sys.exit(1)
    print(f"{count - len(skipped)} queries of the dashboards found data; {len(rules)} alerts can be evaluated")


main(sys.argv[1])
