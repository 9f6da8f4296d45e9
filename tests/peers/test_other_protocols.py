"""
What stands at a port where an SSH server was expected: real servers, and an SSH server that turns the client away.
"""

from __future__ import annotations

import re
import shutil
import socket

from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

from relayd.ssh.errors import ConnectionDropped, NotSSH, SSHError
from relayd.ssh.host_keys.known_hosts import KnownHosts
from relayd.ssh.transport.algorithms import MODERN
from relayd.ssh.transport.transport import ClientTransport
from tests.support.certificates import Authority
from tests.support.process import ChildProcess
from tests.support.ssh import ServerTestCase

_WEB_SERVER = """
const server = require("http").createServer();
server.listen(0, "127.0.0.1", () => console.log(`at ${server.address().port}`));
"""


class OtherProtocolsTests(ServerTestCase):
    """One connection each, without the pool, which would try some of them again."""

    async def meet(self, port: int) -> SSHError:
        """How a connection to *port* fails."""
        hosts = KnownHosts(str(self.known_hosts), "accept-new")
        transport = ClientTransport(self.reactor, "127.0.0.1", port, hosts, MODERN)
        failure = self.failure_of(transport.secure)
        await connectProtocol(TCP4ClientEndpoint(self.reactor, "127.0.0.1", port), transport)
        error = (await failure).value
        assert isinstance(error, SSHError), error
        self.assertTrue(str(error).isprintable())
        return error

    async def start(self, *argv: str) -> int:
        """
        Run a program until the test ends.

        :return: the port that its first line ends with.
        """
        program = shutil.which(argv[0])
        assert program is not None, argv
        lines: list[str] = []
        child = ChildProcess(lambda _descriptor, line: lines.append(line))
        child.start([program, *argv[1:]])
        self.addCleanup(child.terminate)
        await self.until(lambda: [line for line in lines if line[-1:].isdigit()], f"{argv[0]} listens")
        return int(re.split(r"[ :]", next(line for line in lines if line[-1:].isdigit()))[-1])

    def expect(self, error: SSHError, kind: type[SSHError], words: str) -> None:
        self.assertIs(type(error), kind)
        self.assertIn(words, str(error))

    async def test_web_server(self) -> None:
        port = await self.start("node", "-e", _WEB_SERVER)
        self.expect(await self.meet(port), NotSSH, "it answered “HTTP/1.1 400 Bad Request”, as a web server does")

    async def test_tls(self) -> None:
        """OpenSSL closes without a word; others send an alert (`tests.ssh.transport.test_other_protocols`)."""
        issued = Authority(self.directory).issue("localhost")
        port = await self.start(
            "openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", issued.cert, "-key", issued.key
        )
        self.expect(await self.meet(port), ConnectionDropped, "it said nothing, as servers that expect TLS do")

    async def test_too_many_logins_at_a_time(self) -> None:
        server = await self.start_server("MaxStartups 1:100:1")
        with socket.create_connection((server.host, server.port)) as first:
            self.assertTrue(first.recv(8))  # it is counted
            error = await self.meet(server.port)
        self.expect(
            error, ConnectionDropped, "closed the connection during the first contact: it said “Exceeded MaxStartups”."
        )
