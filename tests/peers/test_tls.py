"""
The uplink through TLS and through an HTTP proxy, against npm's socket.io in Node.js.
"""

from __future__ import annotations

import re
import time
from base64 import b64encode
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol

from relayd.network import tls
from relayd.uplink.service import UplinkService
from relayd.uplink.settings import UplinkSettings
from relayd.wire.messages import Secret
from tests.peers.test_main_servers import KEY, PeerCase, has, order, said
from tests.support.certificates import Authority, Certificate
from tests.support.node import NodeServer
from tests.support.openssl_server import OpenSSLServer
from tests.support.receiver import RecordingReceiver


class TLSCase(PeerCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = Path(self.mktemp()).resolve()
        self.authority = Authority(self.directory)

    async def serve_tls(self, certificate: Certificate, **tls: str) -> NodeServer:
        return await self.serve(
            "socketio_server.js", apiKey=KEY, tls={"cert": certificate.cert, "key": certificate.key} | tls
        )

    async def proxy(self, status: str = "200 OK") -> ProxyFactory:
        factory = ProxyFactory(status)
        listening: Any = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(listening.stopListening)
        self.proxy_port = listening.getHost().port
        return factory

    async def answer_with(self, data: bytes) -> int:
        """A server that answers with *data*, which is no TLS, whatever it is sent; gives its port."""

        class Speaks(Protocol):
            transport: Any

            def dataReceived(self, _: bytes) -> None:
                self.transport.write(data)

        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        listening: Any = await endpoint.listen(Factory.forProtocol(Speaks))
        self.addCleanup(listening.stopListening)
        return int(listening.getHost().port)


class TLS(TLSCase):
    async def test_good(self) -> None:
        server = await self.serve_tls(self.authority.issue("localhost"))
        receiver = self.dial(f"https://localhost:{server.port}", tls_ca=self.authority.path)
        await server.wait_for(has("connected"))
        receipt = receiver.next("receipt")
        server.send({"op": "execute", "ack": True, "data": order("c1")})
        await server.wait_for(said(result="c1"))
        await receipt
        await self.uplink.stopService()
        self.assertEqual(receiver.words(), ["ready", "command", "receipt", "lost"])

    async def refused(self, certificate: Certificate, words: str, **settings: Any) -> None:
        """The connection fails, in these words, and the main server has not seen so much as a request."""
        server = await self.serve_tls(certificate)
        receiver = self.dial(f"wss://localhost:{server.port}", **settings)
        line = await self.until_logged("Next attempt")
        self.assertIn(words, line)
        self.assertEqual(receiver.words(), [])
        await self.uplink.stopService()
        self.assertEqual([line for line in server.lines if "upgrade" in line], [])

    async def test_expired(self) -> None:
        certificate = self.authority.issue("localhost", timedelta(days=-1))
        await self.refused(certificate, "certificate has expired", tls_ca=self.authority.path)

    async def test_wrong_name(self) -> None:
        certificate = self.authority.issue("other.example")
        await self.refused(certificate, "certificate is for another name", tls_ca=self.authority.path)

    async def test_no_name(self) -> None:
        certificate = self.authority.issue("localhost", names=None)
        await self.refused(certificate, "it needs the subject alternative name localhost", tls_ca=self.authority.path)
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_a_name_that_is_none(self) -> None:
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.DNSName("*.com")])
        certificate = self.authority.issue("localhost", names=names)
        await self.refused(certificate, "has too few host components", tls_ca=self.authority.path)

    async def test_the_second_look(self) -> None:
        """What Twisted's own callback takes for good gets no request either."""
        self.patch(tls, "_verify", lambda *_: True)
        certificate = self.authority.issue("localhost", names=None)
        await self.refused(certificate, "it needs the subject alternative name localhost", tls_ca=self.authority.path)

    async def test_a_host_that_no_certificate_names(self) -> None:
        self.dial("wss://2130706433:1")
        await self.until_logged("no certificate can name the host 2130706433 of --server")
        await self.uplink.stopService()

    async def test_self_signed(self) -> None:
        certificate = self.authority.issue("localhost", self_signed=True)
        words = 'its TLS certificate is self-signed, by "CN=localhost"'
        await self.refused(certificate, words, tls_ca=self.authority.path)

    async def test_revoked(self) -> None:
        """As a list says that is in --tls-ca, behind the authority."""
        revoked, other = self.authority.issue("localhost"), self.authority.issue("localhost")
        file = self.directory / "ca.pem"
        file.write_bytes(Path(self.authority.path).read_bytes() + self.authority.revoke(revoked))
        await self.refused(revoked, "its TLS certificate has been revoked, as a list (CRL) in", tls_ca=str(file))
        server = await self.serve_tls(other)
        self.dial(f"https://localhost:{server.port}", tls_ca=str(file))
        await server.wait_for(has("connected"))

    async def test_unknown_authority(self) -> None:
        """Without --tls-ca the system's authorities count, and ours is none of them."""
        words = 'its TLS certificate comes from "CN=authority", which is not among the authorities of this machine'
        await self.refused(self.authority.issue("localhost"), words)

    async def test_no_tls(self) -> None:
        server = await self.serve("socketio_server.js", apiKey=KEY)
        self.dial(f"wss://localhost:{server.port}", tls_ca=self.authority.path)
        self.assertIn("it does not speak TLS there: its answer begins with", await self.until_logged("Next attempt"))

    async def test_client_certificate(self) -> None:
        """A main server that asks for one gets it, and refuses a relay without."""
        ours = self.authority.issue("relay.example")
        server = await self.serve_tls(self.authority.issue("localhost"), ca=self.authority.path)
        url = f"https://localhost:{server.port}"
        stranger = self.dial(url, tls_ca=self.authority.path)
        await self.until_logged("Next attempt")
        await self.uplink.stopService()
        self.assertEqual(stranger.words(), [])
        self.dial(url, tls_ca=self.authority.path, tls_cert=ours.cert, tls_key=ours.key)
        await server.wait_for(has("connected"))

    async def test_client_certificate_that_is_refused(self) -> None:
        """Node.js closes the connection then, without an alert."""
        theirs = Authority(self.directory, "stranger").issue("relay.example")
        server = await self.serve_tls(self.authority.issue("localhost"), ca=self.authority.path)
        url = f"https://localhost:{server.port}"
        self.dial(url, tls_ca=self.authority.path, tls_cert=theirs.cert, tls_key=theirs.key)
        line = await self.until_logged("Next attempt")
        self.assertIn("got that of --tls-cert, and closed the connection without an answer; look whether it", line)
        self.assertIn('takes certificates of the authority "CN=stranger"; its log may say why', line)

    async def test_unusable_files(self) -> None:
        """Each is named in the log, and tried again: somebody may be replacing it."""
        ours, other = self.authority.issue("a.example"), self.authority.issue("b.example")
        missing, spoilt = str(self.directory / "none.pem"), str(self.directory / "spoilt.pem")
        nonsense = self.authority.revoke().replace(b"CRL-----\n", b"CRL-----\nAAAA", 1)
        Path(spoilt).write_bytes(Path(ours.cert).read_bytes() + nonsense)
        cut = str(self.directory / "cut.pem")
        Path(cut).write_bytes(Path(ours.cert).read_bytes() + self.authority.revoke()[:-30])
        cases: tuple[tuple[dict[str, Any], str], ...] = (
            ({"tls_ca": cut}, f"--tls-ca {cut} holds a list of revoked certificates that cannot be read"),
            ({"tls_ca": missing}, f"--tls-ca {missing} cannot be read"),
            ({"tls_ca": ours.key}, f"--tls-ca {ours.key} holds no PEM certificate"),
            ({"tls_ca": spoilt}, f"--tls-ca {spoilt} holds a list of revoked certificates that cannot be read"),
            ({"tls_cert": ours.cert, "tls_key": other.key}, f"--tls-key {other.key} holds no unencrypted PEM key"),
            ({"tls_cert": ours.cert, "tls_key": ours.cert}, f"--tls-key {ours.cert} holds no unencrypted PEM key"),
        )
        for settings, words in cases:
            self.dial("https://localhost:1", **settings)
            await self.until_logged(words)
            await self.uplink.stopService()


class OpenSSL(TLSCase):
    """The same words over a WebSocket and HTTP long-polling, through an HTTP proxy: one line each time."""

    async def say(self, port: int, *, polling: bool, **settings: Any) -> str:
        """Why the relay does not connect, as the log and the status say."""
        chosen: dict[str, Any] = {"tls_ca": self.authority.path} | settings
        del self.events[:]
        uplink = UplinkService(
            reactor,
            RecordingReceiver(),
            UplinkSettings(
                server=f"wss://main.example:{port}",
                read_api_key=lambda: Secret(KEY),
                proxy_id="p",
                reconnect_delay=60.0,
                http_proxy=f"http://127.0.0.1:{self.proxy_port}",
                **chosen,
            ),
        )
        if polling:
            uplink.servers[0].profile.note_accepted("socketio", polling=True)
        uplink.startService()
        self.addCleanup(uplink.stopService)
        line = await self.until_logged("Next attempt")
        await uplink.stopService()
        self.assertTrue(line.startswith(f"{(uplink.status.last_error or '').rstrip('.')}. Next attempt"), line)
        self.assertNotIn("\n", line)
        return line

    async def test_each_fault(self) -> None:
        await self.proxy()
        between = Authority(self.directory, "between", issuer=self.authority)
        stranger, issue = Authority(self.directory, "stranger"), self.authority.issue
        name, wants = "main.example", ("-Verify", "1", "-verify_return_error", "-CAfile", self.authority.path)
        theirs = stranger.issue("relay.example")
        ours = {"tls_cert": theirs.cert, "tls_key": theirs.key}
        cases: tuple[tuple[Certificate, tuple[str, ...], dict[str, str], str], ...] = (
            (issue(name, timedelta(days=-1)), (), {}, "its TLS certificate has expired: it is valid from 20"),
            (issue(name, begins=timedelta(hours=9)), (), {}, "its TLS certificate is not yet valid: it is valid from"),
            (issue("other.example"), (), {}, "it names other.example, not main.example; write a name"),
            (issue(name, self_signed=True), (), {}, "its TLS certificate is self-signed"),
            (stranger.issue(name), (), {}, 'its TLS certificate comes from "CN=stranger", which is not among'),
            (between.issue(name), (), {}, "let the main server send its whole chain; otherwise"),
            (issue(name), wants, {}, "it asked for a client certificate, relayd has none, and"),
            (issue(name), (*wants, "-tls1_2"), {}, "it asked for a client certificate, relayd has none, and"),
            (issue(name), wants, ours, "it refuses the certificate of --tls-cert with the alert unknown_ca"),
            (issue(name), ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"), {}, "it takes neither TLS 1.2 nor 1.3"),
            (issue(name), ("-tls1_2", "-cipher", "AES128-SHA"), {}, "the two have no cipher suite in common"),
        )
        for certificate, args, settings, words in cases:
            server = OpenSSLServer(certificate, *args)
            self.addCleanup(server.stop)
            await server.start()
            for polling in (False, True):
                line = await self.say(server.port, polling=polling, **settings)
                self.assertIn(f"The main server wss://main.example:{server.port} cannot be reached: ", line)
                self.assertIn(words, line)
            await server.stop()

    async def test_no_tls(self) -> None:
        await self.proxy()
        port = await self.answer_with(b"SSH-2.0-OpenSSH_9.9 " + KEY.encode() + b"\r\n")
        for polling in (False, True):
            line = await self.say(port, polling=polling)
            self.assertIn('it does not speak TLS there: its answer begins with "SSH-2.0-OpenSSH_9.9 [redacted]"', line)

    async def test_the_end_of_its_certificate(self) -> None:
        """As it was last seen, good or over; our own is read from its file."""
        await self.proxy()
        ends: list[float] = []
        ours = self.authority.issue("relay.example", timedelta(days=9))
        for days in (-1, 7):
            server = await self.serve_tls(self.authority.issue("main.example", timedelta(days=days)))
            proxy = f"http://127.0.0.1:{self.proxy_port}"
            url = f"https://main.example:{server.port}"
            self.dial(url, tls_ca=self.authority.path, http_proxy=proxy, tls_cert=ours.cert, tls_key=ours.key)
            self.assertEqual(set(self.uplink.certificate_ends()), {"relay"})
            await self.until_logged("Next attempt" if days < 0 else "Connected to")
            found = self.uplink.certificate_ends()
            ends += [round((found[each] - time.time()) / 86400, 1) for each in ("main_server", "relay")]
            await self.uplink.stopService()
        self.assertEqual(ends, [-1, 9, 7, 9])
        Path(ours.cert).write_text("nonsense")
        self.assertEqual(set(self.uplink.certificate_ends()), {"main_server"})
        Path(ours.cert).unlink()
        self.assertEqual(set(self.uplink.certificate_ends()), {"main_server"})


class Proxy(Protocol):
    """A small HTTP proxy that knows CONNECT, and answers as its factory's *status* says."""

    factory: ProxyFactory
    transport: Any
    peer: Any = None
    received = b""

    def dataReceived(self, data: bytes) -> None:
        if self.peer is not None:
            self.peer.transport.write(data)
            return
        self.received += data
        if not self.received.endswith(b"\r\n\r\n"):
            return
        self.factory.requests.append(self.received.decode())
        if self.factory.status != "200 OK":
            self.transport.write(f"HTTP/1.1 {self.factory.status}\r\n\r\n".encode())
            self.transport.loseConnection()
            return
        port = int(self.received.split()[1].rpartition(b":")[2])
        target = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        target.connect(Factory.forProtocol(lambda: Far(self)))

    def connectionLost(self, reason: Any = None) -> None:
        if self.peer is not None:
            self.peer.transport.loseConnection()


class Far(Protocol):
    """The proxy's connection to the target."""

    transport: Any

    def __init__(self, near: Proxy) -> None:
        self.near = near

    def connectionMade(self) -> None:
        self.near.peer = self
        self.near.transport.write(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")

    def dataReceived(self, data: bytes) -> None:
        self.near.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.near.transport.loseConnection()


class ProxyFactory(Factory):
    protocol: Any = Proxy

    def __init__(self, status: str = "200 OK") -> None:
        self.status = status
        self.requests: list[str] = []


class ThroughProxy(TLSCase):
    async def test_plain(self) -> None:
        server = await self.serve("socketio_server.js", apiKey=KEY)
        proxy = await self.proxy()
        self.dial(f"http://main.example:{server.port}", http_proxy=f"http://127.0.0.1:{self.proxy_port}")
        await server.wait_for(has("connected"))
        server.send({"op": "execute", "ack": True, "data": order("c1")})
        await server.wait_for(said(result="c1"))
        host = f"main.example:{server.port}"
        self.assertEqual(proxy.requests, [f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n"])
        await self.uplink.stopService()

    async def test_tls_and_password(self) -> None:
        """The proxy sees where to, and its own password, and nothing else."""
        server = await self.serve_tls(self.authority.issue("main.example"))
        proxy = await self.proxy()
        url = f"http://us%40er:hunter2@127.0.0.1:{self.proxy_port}"
        self.dial(f"https://main.example:{server.port}", tls_ca=self.authority.path, http_proxy=url)
        await server.wait_for(has("connected"))
        expected = b64encode(b"us@er:hunter2").decode()
        self.assertIn(f"\r\nProxy-Authorization: Basic {expected}\r\n", proxy.requests[0])
        await self.uplink.stopService()
        self.assertNotIn(
            "hunter2",
            repr(
                UplinkSettings(
                    server="https://x",
                    proxy_id="p",
                    read_api_key=lambda: Secret(""),
                    http_proxy=url,
                )
            ),
        )

    async def test_a_password_from_a_file(self) -> None:
        """Read at each connect: the first one is wrong, and mended."""
        server = await self.serve_tls(self.authority.issue("main.example"))
        proxy = await self.proxy("407 Proxy Authentication Required")
        words = [Secret("wrong"), Secret("hun:ter2")]
        self.dial(
            f"https://main.example:{server.port}",
            tls_ca=self.authority.path,
            http_proxy=f"http://us%40er@127.0.0.1:{self.proxy_port}",
            read_proxy_password=lambda: words[len(proxy.requests) > 0],
        )
        await self.until_logged("Next attempt")
        proxy.status = "200 OK"
        await server.wait_for(has("connected"))
        shown = [re.findall(r"Proxy-Authorization: Basic (.*)", request) for request in proxy.requests]
        expected = [b64encode(pair).decode() for pair in (b"us@er:wrong", b"us@er:hun:ter2")]
        self.assertEqual([pair.strip() for [pair] in (shown[0], shown[-1])], expected)
        await self.uplink.stopService()

    async def test_the_proxy_passes_for_the_main_server(self) -> None:
        """With a certificate without a name, of an authority that is trusted: it learns nothing."""
        server = await self.serve_tls(self.authority.issue("main.example", names=None))
        proxy = await self.proxy()
        url = f"http://127.0.0.1:{self.proxy_port}"
        self.dial(f"https://main.example:{server.port}", tls_ca=self.authority.path, http_proxy=url)
        await self.until_logged("it needs the subject alternative name main.example")
        await self.uplink.stopService()
        self.assertTrue(proxy.requests)
        self.assertEqual([line for line in server.lines if "upgrade" in line], [])

    async def test_refused(self) -> None:
        await self.proxy("407 Proxy Authentication Required")
        self.dial("http://main.example:1", http_proxy=f"http://127.0.0.1:{self.proxy_port}")
        line = await self.until_logged("Next attempt")
        self.assertIn(f"the HTTP proxy http://127.0.0.1:{self.proxy_port} opens no tunnel (HTTP 407 Proxy", line)
