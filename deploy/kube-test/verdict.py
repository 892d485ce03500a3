"""What a load and the looks at the gateways show.

    verdict.py REPORT LOOKS SPREAD DRAINS READY RETRY
"""

import collections, json, re, sys

bad = []


def load(path):
    """What sse-loadtest says in figures. It fails by itself where clients saw a fault, and not where nothing happened."""
    text = open(path).read()
    for line in text.splitlines():
        parts = re.split(r" {2,}", line.strip())
        if parts[0] == "delivery":
            print(f"Delivery time p50: {parts[1]} · p99: {parts[3]} · max: {parts[6]}")
        elif parts[0] in ("Publishing", "Delivering", "Checking") or parts[0].startswith("stream.reset"):
            print(" ".join(parts))
    found = re.search(r"deliveries: ([\d,]+) of ([\d,]+)", text)
    if not found or found[1] != found[2] or found[1] == "0":
        bad.append("the clients did not get what was published")


def share(parts, begin, end, length, amount):
    """Adds an amount that came at an even pace from begin to end to parts of a length."""
    last = len(parts) - 1
    for part in range(len(parts)):
        low = part * length
        high = end if part == last else low + length
        over = max(0.0, min(end, high) - max(begin, low))
        if end > begin:
            parts[part] += amount * over / (end - begin)


def drains(said, spread, wanted):
    found = []
    for name, seen in said.items():
        if not seen[-1]["drained"]:
            continue
        first = next(i for i, at in enumerate(seen) if at["drained"])
        if not first:
            bad.append(f"{name} was not seen before its drain")
            continue
        begin, tenths = seen[first - 1]["at"], [0.0] * 10
        # From look to look: what is known of the beginning and the end is that exact.
        took = next(at["at"] for at in seen if at["drained"] == seen[-1]["drained"]) - begin
        window = max(spread, took)
        for before, after in zip(seen[first - 1:], seen[first:]):
            closed, time = after["drained"] - before["drained"], after["at"] - before["at"]
            if closed and time > spread / 5:
                bad.append(f"{name} was not looked at for {time:.1f} s of its drain: the machine is too busy")
            share(tenths, before["at"] - begin, after["at"] - begin, window / 10, closed)
        total = seen[-1]["drained"]
        worst = max(tenths) / (total / 10)
        found.append((begin, total))
        print(f"drain of {name}: {total:.0f} streams closed, by tenths of {window:.1f} s: "
              f"{' '.join(f'{part:.0f}' for part in tenths)}; the busiest {worst:.2f} times the mean")
        if worst > 2:
            bad.append(f"{name} closed {worst:.2f} times the mean in one tenth of its drain")
        if took > spread + 3:
            bad.append(f"{name} closed its streams in {took:.1f} s, not {spread:g}")
    if len(found) != wanted:
        bad.append(f"{len(found)} pods were seen to drain, not {wanted}")
    return found


def reconnects(looks, said, spread, found):
    """All streams that were opened, by tenths of a drain: they follow the streams that were closed."""
    length, begin = spread / 10, looks[0]["at"]
    end = max(seen[-1]["at"] for seen in said.values())
    parts = [0.0] * (int((end - begin) / length) + 1)
    for name, seen in said.items():
        before = seen[0]
        if name not in looks[0]["pods"]:
            # It had none before it was there.
            before = {"at": min(look["at"] for look in looks if name in look["pods"]), "opened": 0}
        for after in seen:
            share(parts, before["at"] - begin, after["at"] - begin, length, after["opened"] - before["opened"])
            before = after
    total, most = sum(parts), max(parts)
    if not total:
        return
    print(f"{total:.0f} reconnects, at most {most:.0f} in {length:g} s")
    for number, count in enumerate(parts):
        at = begin + number * length
        # A client comes back up to RETRY seconds after its stream was closed.
        mean = sum(total / 10 for start, total in found if start - length < at < start + spread + RETRY + length)
        if found and count > 2 * mean + 5:
            bad.append(f"{count:.0f} clients came back in {length:g} s, {at - found[0][0]:.0f} s after the first drain "
                       f"began, where {mean:.0f} are the mean")


_, report, watched, spread, wanted, ready, RETRY = sys.argv
RETRY = float(RETRY)
load(report)
looks, said = [], collections.defaultdict(list)
for line in open(watched):
    if line.endswith("\n"):
        look = json.loads(line)
        if "pod" in look:
            said[look["pod"]].append(look)
        else:
            looks.append(look)
reconnects(looks, said, float(spread), drains(said, float(spread), int(wanted)))
least = min(sum(p["ready"] and not p["going"] for p in look["pods"].values()) for look in looks)
if least < int(ready):
    bad.append(f"only {least} gateways were ready at one time, not {ready}")
restarts = max(p["restarts"] for look in looks for p in look["pods"].values())
if restarts:
    bad.append(f"a gateway restarted {restarts} times")
print(f"never fewer than {least} gateways ready, {restarts} restarts, {len(looks)} looks")
for sentence in bad:
    print(f"FAILED: {sentence}")
sys.exit(bool(bad))
