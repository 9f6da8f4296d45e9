"""
Public keys of hosts and of authorities: what a peer shows is read strictly, looked at in the cheapest order, and has to
be long enough.
"""

from __future__ import annotations

import base64
import contextlib
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.conch.ssh.common import MP, NS
from twisted.conch.ssh.keys import Key
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.errors import HostCertificateInvalid, KeyExchangeFailed
from relayd.ssh.host_keys.known_hosts import KnownHosts
from relayd.ssh.keys import certificates
from relayd.ssh.keys.certificates import MAX_PRINCIPALS, MAX_SIZE, BadCertificate, parse_certificate
from relayd.ssh.keys.public import BadPublicKey, PublicKey, rsa_bits
from relayd.ssh.transport.algorithms import COMPATIBLE, LEGACY, MODERN
from relayd.ssh.transport.key_exchange_methods import Agreed
from relayd.ssh.transport.session_keys import BadProof, check_proof
from tests.ssh.transport.test_transport import Server, TransportTestCase
from tests.support.hostcerts import PrivateKey, blob_of_private, certificate, rsa_blob, sign
from tests.support.ssh import blob_of, key_pair, tool

ED25519 = ed25519.Ed25519PrivateKey.generate()
SHORT, LONG = rsa.generate_private_key(65537, 1024), rsa.generate_private_key(65537, 2048)
NIST = ec.generate_private_key(ec.SECP256R1())
HASH = bytes(32)
#: For properties, which must be the same each time.
SIGNED = {blob_of_private(key): sign(key, HASH) for key in (ED25519, LONG, NIST)}
NEGATIVE = NS(b"\xfd")
DSA = dsa.generate_private_key(1024)


def dsa_blob(key: dsa.DSAPrivateKey, p: int = 0) -> bytes:
    numbers = key.public_key().public_numbers()
    group = numbers.parameter_numbers
    return NS(b"ssh-dss") + MP(p or group.p) + MP(group.q) + MP(group.g) + MP(numbers.y)


def dsa_signature(key: dsa.DSAPrivateKey, data: bytes) -> bytes:
    """RFC 4253, section 6.6."""
    numbers = decode_dss_signature(key.sign(data, hashes.SHA1()))
    return NS(b"ssh-dss") + NS(b"".join(number.to_bytes(20, "big") for number in numbers))


class ReadingTests(SynchronousTestCase):
    """Keys by themselves."""

    def refuse(self, blob: bytes, words: str = "cannot be read", least: int = 2048) -> None:
        error = self.assertRaises(BadPublicKey, PublicKey, blob, least)
        self.assertIn(words, str(error))

    def test_what_openssh_makes(self) -> None:
        for kind in ("ed25519", "ecdsa", "rsa"):
            private, public = key_pair(kind)
            signature = Key.fromString(private.encode()).sign(b"data", signatureType=None)
            key = PublicKey(blob_of(public), 2048)
            self.assertTrue(key.verify(signature, b"data"))
            self.assertFalse(key.verify(signature, b"Data"))

    def test_rsa_that_is_too_short(self) -> None:
        words = "it is an RSA key of 1024 bits, and needs 2048 at least; the legacy algorithms allow it"
        self.refuse(blob_of_private(SHORT), words)
        for least in (1024, 2048):
            error = self.assertRaises(BadPublicKey, PublicKey, rsa_blob(2**511 + 1), least)
            self.assertEqual(str(error), f"it is an RSA key of 512 bits, and needs {least} at least")
        PublicKey(blob_of_private(SHORT), 1024)
        PublicKey(blob_of_private(LONG), 2048)

    def test_rsa_that_costs_more_than_it_should(self) -> None:
        self.refuse(rsa_blob(2**16384 + 1))
        self.refuse(rsa_blob(2**2047 + 1, 2**64 + 1))
        self.refuse(NS(b"ssh-rsa") + NS(b"\1" * 30_000) + MP(2**2047 + 1))
        self.refuse(NS(b"ssh-rsa") + MP(65537) + NS(b"\1" * 30_000))

    def test_rsa_that_makes_no_sense(self) -> None:
        for modulus, exponent in ((2**2047, 65537), (2**2047 + 1, 1), (2**2047 + 1, 4), (0, 3)):
            self.refuse(rsa_blob(modulus, exponent))
        self.refuse(NS(b"ssh-rsa") + NEGATIVE + MP(2**2047 + 1))
        self.refuse(NS(b"ssh-rsa") + MP(3) + NS(b"\xff" * 256))

    def test_points_that_are_none(self) -> None:
        good = blob_of_private(NIST)
        PublicKey(good, 2048)
        name, curve = NS(b"ecdsa-sha2-nistp256"), NS(b"nistp256")
        x = good[-64:-32]
        for point in (b"", b"\0", b"\2" + x, b"\4" + x, b"\4" + bytes(64), b"\4" + x + x, good[-65:] + b"\0"):
            self.refuse(name + curve + NS(point))
        for other in (b"nistp384", b"nistp521", b""):
            self.refuse(name + NS(other) + good[-69:])
        self.refuse(NS(b"ecdsa-sha2-nistp384") + curve + good[-69:])

    def test_types_that_are_not_taken(self) -> None:
        for blob in (
            dsa_blob(DSA),
            NS(b"sk-ssh-ed25519@openssh.com") + NS(bytes(32)) + NS(b"ssh:"),
            NS(b"ssh-ed448") + NS(bytes(57)),
            NS(b""),
            certificate(blob_of_private(ED25519), ED25519, [b"h"]),
        ):
            self.refuse(blob, "of a type that is not supported")

    def test_dsa_where_it_is_allowed(self) -> None:
        """That is the key of a host under a policy with ``ssh-dss``."""
        blob, key = dsa_blob(DSA), PublicKey(dsa_blob(DSA), 2048, dsa_allowed=True)
        good = dsa_signature(DSA, HASH)
        self.assertTrue(key.verify(good, HASH))
        for bad in (good[:-1], good + b"\0", good[:-41] + good[-40:], NS(b"ssh-dss") + NS(bytes(40)), NS(b"ssh-rsa")):
            self.assertFalse(key.verify(bad, HASH))
        self.assertFalse(key.verify(good, HASH + b"x"))
        for wrong in (dsa_blob(dsa.generate_private_key(2048)), blob[:-1], blob + b"\0", dsa_blob(DSA, p=2**1023 + 1)):
            self.assertRaises(BadPublicKey, PublicKey, wrong, 1024, dsa_allowed=True)
        proof = Agreed(blob, good, b"", b"")
        check_proof(proof, b"ssh-dss", HASH, 1024)
        self.assertRaises(BadProof, check_proof, proof, b"ssh-rsa", HASH, 1024)

    def test_dsa_of_an_authority(self) -> None:
        """It vouches for nobody, whatever the policy."""
        signed = certificate(blob_of_private(ED25519), ED25519, [b"h"])
        forged = replace(parse_certificate(signed), authority=dsa_blob(DSA), signature=dsa_signature(DSA, HASH))
        self.assertFalse(replace(forged, signed=HASH).is_signed())

    def test_more_or_less_than_a_key(self) -> None:
        for key in (ED25519, LONG, NIST):
            blob = blob_of_private(key)
            self.refuse(blob + b"\0")
            for size in range(len(blob)):
                self.assertRaises(BadPublicKey, PublicKey, blob[:size], 2048)

    def test_signatures_that_are_none(self) -> None:
        for key, others in ((ED25519, (LONG, NIST)), (LONG, (ED25519, NIST)), (NIST, (ED25519, LONG))):
            public, good = PublicKey(blob_of_private(key), 2048), sign(key, HASH)
            self.assertTrue(public.verify(good, HASH))
            for bad in (
                *(sign(other, HASH) for other in others),
                good + b"\0",
                good[:-1],
                b"",
                NS(b"ssh-dss"),
                good[:40],
            ):
                self.assertFalse(public.verify(bad, HASH))
        nist = PublicKey(blob_of_private(NIST), 2048)
        for r, s in ((MP(0), MP(1)), (NEGATIVE, MP(1)), (NS(b"\1" * 30_000), MP(1)), (MP(1), b"")):
            self.assertFalse(nist.verify(NS(b"ecdsa-sha2-nistp256") + NS(r + s), HASH))

    def test_a_signature_without_its_zeros(self) -> None:
        """Some servers take it for a number; one in 256 is then shorter than the key."""
        public = PublicKey(blob_of_private(LONG), 2048)
        for number in range(10_000):
            data = b"%d" % number
            content = sign(LONG, data)[-256:]
            if content[0] == 0:
                self.assertTrue(public.verify(NS(b"rsa-sha2-512") + NS(content.lstrip(b"\0")), data))
                return
        self.fail("no such signature")

    def test_bits(self) -> None:
        self.assertEqual(rsa_bits(blob_of_private(SHORT)), 1024)
        for blob in (b"", blob_of_private(NIST), NS(b"ssh-rsa"), NS(b"ssh-rsa") + MP(3) + NEGATIVE):
            self.assertIsNone(rsa_bits(blob))

    @given(st.sampled_from(sorted(SIGNED)), st.booleans(), st.integers(0, 1000), st.integers(1, 255))
    def test_damage(self, key: bytes, of_key: bool, at: int, bits: int) -> None:
        blob, signature = bytearray(key), bytearray(SIGNED[key])
        hit = blob if of_key else signature
        hit[at % len(hit)] ^= bits
        with contextlib.suppress(BadPublicKey):
            self.assertFalse(PublicKey(bytes(blob), 2048).verify(bytes(signature), HASH))


class ProofTests(SynchronousTestCase):
    """What a host may show."""

    def check(self, shown: bytes, key: PrivateKey, algorithm: bytes, least: int = 2048) -> None:
        check_proof(Agreed(shown, sign(key, HASH), b"", b""), algorithm, HASH, least)

    def fault(self, shown: bytes, key: PrivateKey, algorithm: bytes, least: int = 2048) -> str:
        return str(self.assertRaises(BadProof, self.check, shown, key, algorithm, least))

    def test_good(self) -> None:
        for key, name in ((ED25519, b"ssh-ed25519"), (LONG, b"rsa-sha2-512"), (NIST, b"ecdsa-sha2-nistp256")):
            self.check(blob_of_private(key), key, name)
            self.check(certificate(blob_of_private(key), ED25519, [b"h"]), key, name + b"-cert-v01@openssh.com")

    def test_lengths_of_rsa(self) -> None:
        name = b"rsa-sha2-512"
        self.assertIn("RSA key of 1024 bits, and needs", self.fault(blob_of_private(SHORT), SHORT, name))
        self.check(blob_of_private(SHORT), SHORT, name, 1024)
        certified = name + b"-cert-v01@openssh.com"
        of_short = certificate(blob_of_private(SHORT), ED25519, [b"h"])
        self.assertIn("RSA key of 1024 bits, and needs", self.fault(of_short, SHORT, certified))
        of_long = certificate(blob_of_private(LONG), SHORT, [b"h"])
        self.assertIn(
            "its authority has an RSA key of 1024 bits, and needs 2048 at least", self.fault(of_long, LONG, certified)
        )
        self.check(of_long, LONG, certified, 1024)

    def test_a_certificate_in_a_certificate(self) -> None:
        inner = certificate(blob_of_private(ED25519), ED25519, [b"h"])
        twice = NS(b"ssh-ed25519-cert-v01@openssh.com-cert-v01@openssh.com") + inner[36:]
        error = self.assertRaises(BadCertificate, parse_certificate, twice)
        self.assertIn("of an unknown type", str(error))
        nested = certificate(blob_of_private(ED25519), ED25519, [b"h"], authority_blob=inner)
        self.assertFalse(parse_certificate(nested).is_signed())

    def test_policies(self) -> None:
        self.assertEqual([policy.min_rsa_bits for policy in (MODERN, COMPATIBLE, LEGACY)], [2048, 2048, 1024])
        assert MODERN.last_resort is not None
        self.assertEqual(MODERN.last_resort.min_rsa_bits, 2048)


class TransportTests(TransportTestCase):
    """A whole key exchange with a host of a short key."""

    def test_short_host_key(self) -> None:
        pem = SHORT.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
        for policy in (MODERN, COMPATIBLE):
            self.begin(Server(pem), policy=policy)
            self.assertIn("an RSA key of 1024 bits, and needs 2048 at least", str(self.failure(KeyExchangeFailed)))
            self.assertFalse(self.known_hosts.exists())
        self.begin(Server(pem), policy=LEGACY)
        self.assert_secure()


class CertificateTests(SynchronousTestCase):
    """What an attacker would have looked through before anything is known of him."""

    def setUp(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="relayd-test-publickeys-"))
        self.addCleanup(tool, "rm", "-rf", str(directory))
        self.path = directory / "known_hosts"
        self.subject = blob_of_private(ED25519)
        self.trust(ED25519)

    def trust(self, authority: PrivateKey) -> None:
        blob = blob_of_private(authority)
        kind = blob[4 : 4 + int.from_bytes(blob[:4], "big")].decode()
        self.path.write_text(f"@cert-authority * {kind} {base64.b64encode(blob).decode()}\n")

    def fault(self, blob: bytes) -> str:
        known = KnownHosts(str(self.path), "strict")
        return str(self.assertRaises(HostCertificateInvalid, known.verify, "host", 22, blob))

    def test_the_signature_is_looked_at_first(self) -> None:
        looked: list[object] = []

        def match(*names: str) -> bool:
            looked.append(names)
            return False

        self.patch(certificates, "fnmatchcase", match)
        forged = certificate(self.subject, ED25519, [b"*a" * 60] * MAX_PRINCIPALS, signature=sign(ED25519, b"other"))
        self.assertIn("signature is wrong", self.fault(forged))
        self.assertEqual(looked, [])
        self.assertIn("it is for", self.fault(certificate(self.subject, ED25519, [b"*a" * 60] * MAX_PRINCIPALS)))
        self.assertEqual(len(looked), MAX_PRINCIPALS)

    def test_bounds(self) -> None:
        parse_certificate(certificate(self.subject, ED25519, [b"h"] * MAX_PRINCIPALS))
        for blob, words in (
            (certificate(self.subject, ED25519, [b"h"] * (MAX_PRINCIPALS + 1)), "damaged"),
            (certificate(self.subject, ED25519, [b"x" * MAX_SIZE]), "too large"),
            (certificate(self.subject, ED25519, [b"h"], options=(NS(b"o") + NS(b"")) * 40), "damaged"),
        ):
            self.assertIn(words, str(self.assertRaises(BadCertificate, parse_certificate, blob)))
            agreed = Agreed(blob, sign(ED25519, HASH), b"", b"")
            self.assertRaises(BadProof, check_proof, agreed, b"ssh-ed25519-cert-v01@openssh.com", HASH, 1024)

    def test_a_pattern_longer_than_any_name(self) -> None:
        self.assertIn("it is for", self.fault(certificate(self.subject, ED25519, [b"*" * 300])))

    def test_an_authority_that_cannot_be_read(self) -> None:
        blob = NS(b"ecdsa-sha2-nistp256") + NS(b"nistp256") + NS(b"\4" + bytes(64))
        self.path.write_text(f"@cert-authority * ecdsa-sha2-nistp256 {base64.b64encode(blob).decode()}\n")
        forged = certificate(self.subject, ED25519, [b"host"], authority_blob=blob)
        self.assertIn("signature is wrong", self.fault(forged))

    def test_an_authority_of_512_bits(self) -> None:
        """Anybody can find out the private half of such a key; it is not even asked what was signed."""
        blob = rsa_blob(2**511 + 1)
        self.path.write_text(f"@cert-authority * ssh-rsa {base64.b64encode(blob).decode()}\n")
        signature = NS(b"rsa-sha2-512") + NS(bytes(64))
        forged = certificate(self.subject, ED25519, [b"host"], authority_blob=blob, signature=signature)
        self.assertIn("signature is wrong", self.fault(forged))
