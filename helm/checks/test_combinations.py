"""Checks that all combinations of the main switches render."""

import re
import tempfile
import unittest

from rendering import ALWAYS, SWITCHES, combinations, together, with_dashboard


class Combinations(unittest.TestCase):
    def test_all_render_and_have_what_they_name(self):
        with tempfile.TemporaryDirectory() as folder:
            jobs, chosen = combinations(with_dashboard(folder))
            texts = together(jobs)
        self.assertEqual(len(texts), 2 ** len(SWITCHES))
        for name, on in chosen.items():
            wanted = sorted(ALWAYS + [kind for switch in on for kind in SWITCHES[switch][1]])
            if {"embedded", "network"} <= set(on):
                wanted = sorted(wanted + ["NetworkPolicy"])
            found = sorted(re.findall(r"^kind: (\w+)$", texts[name], re.MULTILINE))
            self.assertEqual(found, wanted, name)
