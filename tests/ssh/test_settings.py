"""
The settings of the SSH client: it does what each of them says, or does not have it.
"""

from __future__ import annotations

import ast
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import relayd.ssh
from relayd.ssh.settings import SSHSettings


class SettingsTests(SynchronousTestCase):
    def test_each_is_read(self) -> None:
        """Three of them were read by the relay alone, and a program that set them got no error."""
        read: set[str] = set()
        for path in Path(relayd.ssh.__path__[0]).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("settings"):
                    read.add(node.attr)
        self.assertEqual(set(SSHSettings.__struct_fields__) - read, set())
