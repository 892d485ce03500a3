#!/usr/bin/env python3
"""Writes configuration.md from the defaults file: python3 configuration.py, or with --check, which fails where it is not up to date."""

import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent
DEFAULTS = HERE / "../gateway/src/config/defaults.toml"
PAGE = HERE / "configuration.md"
HEAD = """# Configuration

Made from [`defaults.toml`](../gateway/src/config/defaults.toml) by `docs/configuration.py`.

A setting is taken from the last of these places that has it: the defaults; the TOML file that `--config` names, in which an
unknown key is an error; the environment, as `SSE_` and the key in capitals with `__` between levels, such as `SSE_REDIS__URL`, lists
with commas between items; flags (`sse-gateway --help`).

`sse-gateway print-config` prints what comes out of it, with secrets hidden; `sse-gateway check-config` checks it. Durations
are a number and a unit: `250ms`, `15s`, `5m`, `12h`, `1d`. Sizes are in bytes. SIGHUP reloads some settings: see
[operations.md](operations.md).
"""


def rows(lines):
    """Sections with their keys: (section, comment before it, [(key, default, comment)])."""
    sections = [("", "", [])]
    comment = []
    for line in lines:
        if line.startswith("#"):
            comment.append(line[1:].strip())
        elif match := re.fullmatch(r"\[(\w+)\]", line):
            sections.append((match[1], " ".join(comment), []))
            comment = []
        elif match := re.fullmatch(r"(\w+) = (.*)", line):
            sections[-1][2].append((match[1], match[2], " ".join(comment)))
            comment = []
        elif not line:
            # A blank line ends what was said about the file.
            comment = []
        else:
            sys.exit(f"{DEFAULTS.name}: cannot be understood: {line}")
    return sections


def page():
    text = HEAD
    for section, about, keys in rows(DEFAULTS.read_text().splitlines()):
        text += f"\n## {f'[{section}]' if section else 'Top level'}\n\n"
        if about:
            text += about + "\n\n"
        text += "| key | default | meaning |\n|---|---|---|\n"
        for key, default, meaning in keys:
            name = f"{section}.{key}" if section else key
            text += f"| `{name}` | `{default}` | {meaning.replace('|', '&#124;')} |\n"
    return text


if "--check" in sys.argv:
    if not PAGE.exists() or PAGE.read_text() != page():
        sys.exit("docs/configuration.md is not up to date: run docs/configuration.py")
else:
    PAGE.write_text(page())
