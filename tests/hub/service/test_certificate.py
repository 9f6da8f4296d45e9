"""
relayd.hub.service.certificate: TLS with files that change while the hub runs, with a real client.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from OpenSSL import SSL
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import ConfigError
from relayd.hub.service.certificate import INTERVAL, ServerCertificate
from tests.support.certificates import Authority, Certificate


class CertificateTests(SynchronousTestCase):
    """`ServerCertificate`."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.authority = Authority(self.folder / "ca")
        self.clock = Clock()
        self.put(self.authority.issue("one.example"))
        self.certificate = ServerCertificate(self.clock, str(self.folder / "cert"), str(self.folder / "key"))

    def put(self, issued: Certificate, key: bool = True) -> None:
        """Make it the one that is used."""
        shutil.copy(issued.cert, self.folder / "cert")
        if key:
            shutil.copy(issued.key, self.folder / "key")

    def shown(self) -> str:
        """The name in the certificate that a client sees now."""
        server = self.certificate.serverConnectionForTLS(None)
        client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
        client.set_connect_state()
        server.set_accept_state()
        for _ in range(4):
            for one, other in ((client, server), (server, client)):
                with contextlib.suppress(SSL.WantReadError):
                    one.do_handshake()
                with contextlib.suppress(SSL.WantReadError):
                    other.bio_write(one.bio_read(65536))
        found = client.get_peer_certificate()
        assert found is not None
        return str(found.get_subject().CN)

    def refused(self) -> str:
        """Why the files cannot be used."""
        return str(self.assertRaises(ConfigError, self.certificate.read))

    def test_a_new_certificate_is_used(self) -> None:
        self.assertEqual(self.shown(), "one.example")
        self.put(self.authority.issue("two.example"))
        self.assertEqual(self.shown(), "one.example")  # it is not looked at so often
        self.clock.advance(INTERVAL)
        self.assertEqual(self.shown(), "two.example")

    def test_half_of_a_new_one_is_not(self) -> None:
        self.assertEqual(self.shown(), "one.example")
        new = self.authority.issue("two.example")
        self.put(new, key=False)
        self.clock.advance(INTERVAL)
        self.assertEqual(self.shown(), "one.example")
        self.put(new)
        self.clock.advance(INTERVAL)
        self.assertEqual(self.shown(), "two.example")

    def test_what_cannot_be_used(self) -> None:
        self.put(self.authority.issue("two.example"), key=False)
        self.assertIn("is not that of the first certificate", self.refused())
        (self.folder / "cert").write_text("")
        self.assertIn("--tls-cert: ", self.refused())
        self.assertIn("holds no certificates in PEM", self.refused())
        (self.folder / "cert").unlink()
        self.assertIn("cannot be read: No such file or directory", self.refused())
        self.put(issued := self.authority.issue("three.example"))
        (self.folder / "key").write_text("x")
        self.assertIn("holds no private key in PEM", self.refused())
        key = load_pem_private_key(Path(issued.key).read_bytes(), None)
        sealed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
        (self.folder / "key").write_bytes(sealed)
        self.assertIn("is encrypted", self.refused())
