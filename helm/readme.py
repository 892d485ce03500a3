#!/usr/bin/env python3
"""Writes the table of values in the chart's README.md from the comments of values.yaml.

    helm/readme.py           writes it
    helm/readme.py --check   fails if it is not up to date

Reads the YAML that values.yaml is written in, not all of YAML: two spaces for each level, and the
comment of a key on the lines above it, which every key has. A key with commented keys below it is a
section; any other key is a value.
"""

import pathlib
import re
import sys

CHART = pathlib.Path(__file__).resolve().parent / "sse-gateway"
BEGIN, END = "<!-- values -->", "<!-- end of values -->"
KEY = re.compile(r"^( *)([A-Za-z][A-Za-z0-9]*):(?: (.*))?$")


def indent(line):
    return len(line) - len(line.lstrip(" "))


def block(lines, at):
    """The lines below the key in line `at`."""
    depth, end = indent(lines[at]), at + 1
    while end < len(lines) and (not lines[end].strip() or indent(lines[end]) > depth):
        end += 1
    return lines[at + 1 : end]


def rows(lines, path=""):
    comment, at = [], 0
    while at < len(lines):
        line = lines[at]
        if not line.strip():
            comment = []
        elif line.lstrip().startswith("#"):
            comment.append(line.lstrip()[1:].strip())
        else:
            match = KEY.match(line)
            if not match:
                sys.exit(f"values.yaml: cannot read `{line}` below `{path}`")
            key = path + match[2]
            if not comment:
                sys.exit(f"values.yaml: `{key}` has no comment")
            below = block(lines, at)
            if match[3] is None and any(inner.lstrip().startswith("#") for inner in below):
                yield f"**{key}**", "", " ".join(comment)
                yield from rows(below, key + ".")
            else:
                default = "see values.yaml" if match[3] is None else f"`{match[3]}`"
                yield f"`{key}`", default, " ".join(comment)
            at += len(below)
            comment = []
        at += 1


def table():
    lines = (CHART / "values.yaml").read_text().splitlines()
    out = ["| value | default | meaning |", "|---|---|---|"]
    for key, default, text in rows(lines):
        out.append("| {} | {} | {} |".format(*(cell.replace("|", "\\|") for cell in (key, default, text))))
    return "\n".join(out)


def main():
    readme = CHART / "README.md"
    text = readme.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"README.md lacks {BEGIN} or {END}")
    new = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if sys.argv[1:] == ["--check"]:
        if new != text:
            sys.exit("the table of values in helm/sse-gateway/README.md is old: run helm/readme.py")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        readme.write_text(new)


if __name__ == "__main__":
    main()
