"""
Certificates for tests of TLS: an authority, and what it signs.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtensionOID, NameOID
from msgspec import Struct

#: Stands for the name that the certificate is issued for.
_OF_THE_NAME: Final = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"")


class Certificate(Struct, frozen=True):
    """
    :ivar cert: path of the PEM file; ``key`` that of its private key.
    """

    cert: str
    key: str


class Authority:
    """
    A certificate authority of its own.

    :ivar path: PEM file of its certificate.
    """

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self._name, self._name, self._key, timedelta(days=2))
        certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
            self._key, hashes.SHA256()
        )
        self.path = str(directory / f"{name}.pem")
        Path(self.path).write_bytes(certificate.public_bytes(Encoding.PEM))

    def issue(
        self,
        name: str,
        lifetime: timedelta = timedelta(days=1),
        *,
        self_signed: bool = False,
        names: x509.ExtensionType | None = _OF_THE_NAME,
    ) -> Certificate:
        """
        A certificate for the host *name*.

        :param lifetime: until it expires; negative: it has.
        :param self_signed: it is its own authority instead.
        :param names: its subject alternative names, or ``None`` for none; by default *name* as a DNS name.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, subject if self_signed else self._name, key, lifetime)
        if names is _OF_THE_NAME:
            names = x509.SubjectAlternativeName([x509.DNSName(name)])
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(key if self_signed else self._key, hashes.SHA256())
        stem = self._directory / f"{certificate.serial_number}"
        made = Certificate(f"{stem}.pem", f"{stem}.key")
        Path(made.cert).write_bytes(certificate.public_bytes(Encoding.PEM))
        Path(made.key).write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )
        return made


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + lifetime)
    )
