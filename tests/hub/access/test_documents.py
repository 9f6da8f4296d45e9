"""
Tests of docs/hub-security.rst: it says what is so.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.access.password_hashes import MOST_WAITING, HashingCost
from relayd.hub.access.password_rules import LEAST, MOST
from relayd.hub.access.permissions import Permission, Role, permissions_of
from relayd.hub.access.sessions import ABSOLUTE, IDLE
from relayd.hub.access.throttle import BURST, FREE, FREE_ADDRESS, LONGEST, RATE

FOLDER = Path(__file__).parent
TEXT = (FOLDER.parents[2] / "docs" / "hub-security.rst").read_text("utf-8")


class DocumentTests(SynchronousTestCase):
    def test_the_table_of_permissions(self) -> None:
        rows = re.findall(r"   \* - ``(\w+:\w+)``\n     - (\w+)\n     - (\w+)\n     - (\w+)\n", TEXT)
        expected = [
            (each.value, *("yes" if each in permissions_of(role) else "no" for role in Role)) for each in Permission
        ]
        self.assertEqual(rows, expected)

    def test_numbers(self) -> None:
        words = " ".join(TEXT.split())
        for said, so in (
            ("12 to 128 characters", (LEAST, MOST) == (12, 128)),
            ("64 MiB, three passes", HashingCost() == HashingCost(passes=3, kib=65536)),
            ("and 16 wait at most", MOST_WAITING == 16),
            ("after 12 hours, and after 30 minutes", (ABSOLUTE, IDLE) == (12 * 3600 * 10**6, 1800 * 10**6)),
            ("has five failures free", FREE == 5),
            ("to 15 min", LONGEST == 900),
            ("has 20 failures free", FREE_ADDRESS == 20),
            ("has 20 attempts at once, and one more each minute", (BURST, RATE) == (20, 1 / 60)),
        ):
            self.assertIn(said, words)
            self.assertTrue(so, said)

    def test_the_tests_that_it_names_are_there(self) -> None:
        for module, case in re.findall(r"``(?:tests\.hub\.access\.)?(test_\w+)\.(\w+Tests)``", TEXT):
            self.assertTrue(hasattr(import_module(f"tests.hub.access.{module}"), case), f"{module}.{case}")
        source = "".join(path.read_text("utf-8") for path in FOLDER.glob("test_*.py"))
        modules = {path.stem for path in FOLDER.glob("test_*.py")}
        for name in re.findall(r"``(?:tests\.hub\.access\.)?(test_\w+)``", TEXT):
            self.assertTrue(name in modules or f"def {name}(" in source, name)
