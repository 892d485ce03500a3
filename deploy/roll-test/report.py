#!/usr/bin/env python3
"""What roll-test.sh has measured: deliveries, and for each node that left, when its clients came back.

  report.py DIRECTORY SPREAD

Fails if any tenth of a drain time saw more than twice the mean: a tenth of all that were closed, or came back.
"""
import json
import pathlib
import sys

WIDTH = 16
directory, spread = pathlib.Path(sys.argv[1]), float(sys.argv[2])


class Drain:
    """The stop of one node: its file's first line is the moment at which it began to close streams, and its name."""

    def __init__(self, path):
        begin, self.name = path.read_text().split("\n", 1)[0].split(" ", 1)
        self.begin = float(begin)
        points = [tuple(map(float, line.split())) for line in path.read_text().splitlines()[1:]]
        self.closed = self.tenths([(at, closed) for at, closed, _ in points])
        self.back = self.tenths([(at, opened) for at, _, opened in points])
        if not any(self.back):
            sys.exit(f"{self.name}: nobody came back")

    def tenths(self, points):
        """How much a counter grew in each tenth of the drain time, and as long after it as it grew."""
        counts = [0.0] * 10
        for (earlier, before), (later, value) in zip(points, points[1:]):
            # Between two looks, which a busy machine may set apart, it grew evenly.
            grown, pieces = value - before, max(1, round((later - earlier) * 10))
            for piece in range(pieces if grown > 0 else 0):
                at = later - (later - earlier) * piece / pieces
                tenth = max(0, int((at - self.begin) / spread * 10))
                counts += [0.0] * (tenth + 1 - len(counts))
                counts[tenth] += grown / pieces
        return counts


def busiest(counts):
    """The busiest tenth, beside the mean: a tenth of all."""
    return max(counts) / (sum(counts) / 10)


report = json.loads((directory / "load.json").read_text())
delivering, checking = report["delivering"], report["checking"]
print(
    f"{delivering['received']:,} deliveries: none lost, repeated or out of order; "
    f"{checking['closed']:,} streams were closed and came back"
)
worst = worst_closed = 0.0
rolls = sorted({path.name.split("-")[1] for path in directory.glob("drain-*")}, key=int)
for roll in rolls:
    drains = [Drain(path) for path in sorted(directory.glob(f"drain-{roll}-*"))]
    worst = max(worst, *(busiest(drain.back) for drain in drains))
    print(f"\nroll {roll}: streams that came back in each tenth of the drain time of {spread:g} s, and after it")
    print("  " + "".join(f"{drain.name:<{WIDTH + 9}}" for drain in drains).rstrip())
    for row in range(max(len(drain.back) for drain in drains)):
        line = f"{row + 1:2}"
        for drain in drains:
            count = drain.back[row] if row < len(drain.back) else 0
            bar = "█" * round(WIDTH * count / max(drain.back))
            line += f" {count:5,.0f} {bar:<{WIDTH}}  "
        print(line.rstrip())
    print("  " + "".join(f" {sum(drain.back):5,.0f} came back      " + " " * (WIDTH - 13) for drain in drains).rstrip())
    print("  " + "".join(f" {busiest(drain.back):5.2f} times the mean " + " " * (WIDTH - 13) for drain in drains).rstrip())
    # An older version does not say what it closed.
    if all(any(drain.closed) for drain in drains):
        worst_closed = max(worst_closed, *(busiest(drain.closed) for drain in drains))
        print("  closed in each tenth: " + "; ".join(" ".join(f"{count:.0f}" for count in drain.closed) for drain in drains))
print(f"\nthe busiest tenth of any drain time saw {worst:.2f} times the mean come back, and {worst_closed:.2f} times the mean closed")
if max(worst, worst_closed) > 2:
    sys.exit("report: that is more than twice the mean")
