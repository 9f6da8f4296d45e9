"""
Certificates for tests of TLS: an authority, and what it signs.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from ssl import DER_cert_to_PEM_cert
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

    :param issuer: the authority that signs its certificate; ``None``: it is a root.
    :param begins: until its certificate is valid; negative: it is.
    :param lifetime: until its certificate expires; negative: it has.
    :ivar path: PEM file of its certificate.
    """

    def __init__(
        self,
        directory: Path,
        name: str = "authority",
        *,
        issuer: Authority | None = None,
        begins: timedelta = timedelta(days=-30),
        lifetime: timedelta = timedelta(days=3650),
    ) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        by = self if issuer is None else issuer
        builder = _builder(self._name, by._name, self._key, begins, lifetime)
        certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
            by._key, hashes.SHA256()
        )
        self.path = str(directory / f"{name}.pem")
        Path(self.path).write_bytes(certificate.public_bytes(Encoding.PEM))

    def issue(
        self,
        name: str,
        lifetime: timedelta = timedelta(days=1),
        *,
        begins: timedelta = timedelta(days=-30),
        self_signed: bool = False,
        names: x509.ExtensionType | None = _OF_THE_NAME,
        usage: x509.ExtensionType | None = None,
    ) -> Certificate:
        """
        A certificate for the host *name*.

        :param lifetime: until it expires; negative: it has.
        :param begins: until it is valid; negative: it is.
        :param self_signed: it is its own authority instead.
        :param names: its subject alternative names, or ``None`` for none; by default *name* as a DNS name.
        :param usage: what it may be used for; by default anything.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, subject if self_signed else self._name, key, begins, lifetime)
        if names is _OF_THE_NAME:
            names = x509.SubjectAlternativeName([x509.DNSName(name)])
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        if usage is not None:
            builder = builder.add_extension(usage, critical=False)
        certificate = builder.sign(key if self_signed else self._key, hashes.SHA256())
        stem = self._directory / f"{certificate.serial_number}"
        made = Certificate(f"{stem}.pem", f"{stem}.key")
        Path(made.cert).write_bytes(certificate.public_bytes(Encoding.PEM))
        Path(made.key).write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )
        return made

    def revoke(self, *certificates: Certificate, begins: timedelta = timedelta(days=-1)) -> bytes:
        """A list (CRL) in PEM that is valid for two days, and says that these are revoked."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder(self._name, now + begins, now + begins + timedelta(days=2))
        for each in certificates:
            number = x509.load_pem_x509_certificate(Path(each.cert).read_bytes()).serial_number
            revoked = x509.RevokedCertificateBuilder(number, now + begins)
            builder = builder.add_revoked_certificate(revoked.build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def spoil(self, certificate: Certificate) -> None:
        """Sign *certificate* anew with a version that there is none of, which OpenSSL does not look at."""
        whole = x509.load_pem_x509_certificate(Path(certificate.cert).read_bytes())
        version, content = b"\xa0\x03\x02\x01", whole.tbs_certificate_bytes
        content = content.replace(version + b"\2", version + b"\5", 1)
        signature = self._key.sign(content, ec.ECDSA(hashes.SHA256()))
        algorithm = bytes.fromhex("300a06082a8648ce3d040302")
        der = _der(0x30, content + algorithm + _der(3, b"\0" + signature))
        Path(certificate.cert).write_text(DER_cert_to_PEM_cert(der))


def _der(tag: int, content: bytes) -> bytes:
    """X.690, section 8.1.3."""
    size = len(content)
    return bytes((tag, size) if size < 128 else (tag, 0x82, size >> 8, size & 0xFF)) + content


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, begins: timedelta, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + lifetime)
    )
