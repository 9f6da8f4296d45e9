"""
The endpoints that ``--status`` takes.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.config.listen_address import listen_address
from relayd.config.reading import load
from relayd.errors import ConfigError


class ListenTests(SynchronousTestCase):
    """``--status``."""

    def test_spellings(self) -> None:
        for text in ("tcp:127.0.0.1:9180", "tcp:9180:interface=127.0.0.1", "tcp:9180", "tcp:localhost:9180"):
            address = listen_address(text)
            self.assertEqual((str(address), address.is_local), ("tcp:127.0.0.1:9180", True), text)
        for text in ("tcp:[::1]:9180", "tcp6:9180:interface=\\:\\:1"):
            self.assertEqual((str(listen_address(text)), listen_address(text).is_local), ("tcp:[::1]:9180", True))
        self.assertFalse(listen_address("tcp:0.0.0.0:9180").is_local)
        self.assertFalse(listen_address("tcp:10.0.0.1:9180").is_local)
        socket = listen_address("unix:/run/relayd/status")
        self.assertEqual((socket.path, socket.mode, socket.is_local), ("/run/relayd/status", 0o660, True))
        self.assertEqual(listen_address("unix:/run/s:mode=600").mode, 0o600)
        for text in ("tcp:127.0.0.1:9180", "tcp:[::1]:9180", "unix:/run/s", "unix:/run/s:mode=600"):
            self.assertEqual(str(listen_address(text)), text)  # relayctl config shows it so

    def test_mistakes(self) -> None:
        mistakes = ("", "9180", "tcp:", "tcp:0", "tcp:70000", "tcp:127.0.0.1", "tcp:main.example.com:80", "unix:status",
                    "tcp:999.1.1.1:80", "ssl:443", "http://127.0.0.1:9180", "tcp:127.0.0.1:9180:backlog=1")  # fmt: skip
        for text in mistakes:
            self.assertRaises(ValueError, listen_address, text)
        error = self.assertRaises(ConfigError, load, {"status": "tcp:everywhere"}, {}, complete=False)
        self.assertEqual(str(error), '--status: expected tcp:127.0.0.1:PORT or unix:/PATH, not "tcp:everywhere"')
