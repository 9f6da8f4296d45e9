"""
The command line of the demonstration.
"""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from relayd.demo.command_line import chosen_target, make_parser
from relayd.errors import ConfigError


class TargetTests(SynchronousTestCase):
    """The host that the options name."""

    def test_hosts_and_ports(self) -> None:
        key = Path(self.mktemp())
        key.write_text("k")

        def address(text: str) -> tuple[str, int]:
            options = make_parser().parse_args(["--ssh", text, "--user", "u", "--key", str(key)])
            target = chosen_target(options)
            assert target is not None
            return target.host, target.port

        self.assertEqual(address("h"), ("h", 22))
        self.assertEqual(address("h:2222"), ("h", 2222))
        self.assertEqual(address("::1"), ("::1", 22))
        self.assertEqual(address("[::1]"), ("::1", 22))
        self.assertEqual(address("[::1]:2222"), ("::1", 2222))
        for wrong in ("h:", "h:0", "h:65536", "h:x", ":22", "h:٢٢", "h:" + "9" * 5000):
            self.assertRaises(ConfigError, address, wrong)
