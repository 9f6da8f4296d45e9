"""
A real TLS server that knows nothing of relayd: ``openssl s_server``.
"""

from __future__ import annotations

import re
from typing import Final

from twisted.internet.defer import Deferred

from tests.support.certificates import Certificate
from tests.support.process import ChildProcess, needed

_LISTENING: Final = re.compile(r"ACCEPT .*:([0-9]+)")


class OpenSSLServer:
    """
    ``openssl s_server``, which answers any HTTP request with an error, if TLS comes about.

    :param args: further options.
    :ivar port: where it listens, on 127.0.0.1.
    """

    def __init__(self, certificate: Certificate, *args: str) -> None:
        files = ("-cert", certificate.cert, "-key", certificate.key)
        self._argv = ["openssl", "s_server", "-accept", "127.0.0.1:0", *files, "-WWW", *args]
        self._process = ChildProcess(self._on_line)
        self._listening: Deferred[None] = Deferred()
        self.port = 0

    def start(self) -> Deferred[None]:
        """Fires when it listens, and fails with `PeerFailed` where it cannot."""
        self._process.start(self._argv)
        self._process.when_ended().addCallback(lambda _: needed(self._listening, "openssl s_server ended"))
        return self._listening

    def stop(self) -> Deferred[int]:
        """End it; fires with its exit code."""
        return self._process.terminate()

    def _on_line(self, descriptor: int, line: str) -> None:
        found = _LISTENING.match(line)
        if found is not None and not self._listening.called:
            self.port = int(found[1])
            self._listening.callback(None)
