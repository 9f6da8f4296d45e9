"""
Whom the SSH client trusts: lines of known_hosts, certificates of hosts and users; and the listing of processes, by
which it knows what to end.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from twisted.conch.ssh.common import NS
from twisted.conch.ssh.keys import Key

from relayd.ssh.ending.processes import ShellAnswers, find, parse_listing
from relayd.ssh.errors import SSHError
from relayd.ssh.host_keys.known_hosts import KnownHosts
from relayd.ssh.host_keys.known_hosts_lines import KnownHostLines, parse_known_hosts
from relayd.ssh.host_keys.verifier import ExpectedHostKey
from relayd.ssh.keys.certificates import (
    BadCertificate,
    fault_of_host_certificate,
    parse_certificate,
    read_user_certificate,
)
from relayd.ssh.keys.types import key_type
from relayd.ssh.transport.key_exchange_methods import Agreed
from relayd.ssh.transport.session_keys import BadProof, check_proof
from tests.fuzz.engine import Target, check, check_words, grow

#: The first byte.
_LINES, _BLOB, _USER, _LISTING, _PROOF = range(5)
_HOST, _OTHER = "web1.example", "10.1.2.3"
_NOW = 1_700_000_000
_TYPES = (b"ssh-ed25519", b"ssh-rsa", b"ecdsa-sha2-nistp256", b"ssh-ed25519-cert-v01@openssh.com")


class _Known(KnownHosts):
    """A file that is none."""

    def __init__(self, text: str) -> None:
        super().__init__("known_hosts", "strict", lambda: _NOW)
        self._held = KnownHostLines(parse_known_hosts(iter(text.splitlines(keepends=True))))

    def _load(self) -> Any:
        return self._held


def _run(data: bytes) -> None:
    if not data:
        return
    kind, data = data[0] % 5, data[1:]
    if kind in (_LINES, _LISTING):
        data = grow(data)
    (_known_hosts, _certificate, _user_certificate, _listing, _proof)[kind](data)


def _known_hosts(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    known = _Known(text)
    blobs = [_public(), *(entry.blob for entry in parse_known_hosts(iter(text.splitlines()))), _certified()]
    for host, port in ((_HOST, 22), (_OTHER, 2222), ("-" * 255, 22)):
        known.key_types(host, port)
        for blob in blobs[:8]:
            _verify(known, host, port, blob)
    for entry in parse_known_hosts(iter(text.splitlines())):
        if set(entry.names).isdisjoint("*?!|,@[]#") and not entry.marker:
            check(entry.matches(entry.names.lower()), "a name that is not its own")


def _verify(known: Any, host: str, port: int, blob: bytes) -> None:
    try:
        known.verify(host, port, blob)
    except (SSHError, BadCertificate) as error:
        check_words(error, 3000)


def _certificate(data: bytes) -> None:
    try:
        certificate = parse_certificate(data)
    except BadCertificate as error:
        check_words(error)
    else:
        fault = fault_of_host_certificate(certificate, _HOST, _NOW)
        if fault is not None:
            check_words(fault)
        certificate.is_signed()
        certificate.out_of_date(_NOW)
        authority = f"@cert-authority *.example {certificate.authority[4:23].decode('latin-1').strip()} "
        _verify(_Known(authority + base64.b64encode(certificate.authority).decode()), _HOST, 22, data)
    if key_type(data) in _TYPES:  # no other comes so far: see `check_proof`
        _verify(ExpectedHostKey("ssh-ed25519 SHA256:" + "A" * 43), _HOST, 22, data)


def _user_certificate(data: bytes) -> None:
    try:
        read_user_certificate(data.decode("utf-8", "ignore"), _NOW)
    except BadCertificate as error:
        check_words(error)


def _listing(data: bytes) -> None:
    answers = ShellAnswers("mark")
    half = len(data) // 2
    lines = answers.feed(data[:half]) + answers.feed(data[half:])
    for leaders in (parse_listing(lines), parse_listing(data.split(b"\n"))):
        commands = [b"sleep 1", b"sleep 2"]
        for place, command in enumerate(commands):
            leader = None if leaders is None else find(leaders, command, place, commands)
            if leader is not None:
                line = leader.hit("TERM")
                check(line.count(b"\n") == 1 and len(line.split()) == 5, "more than one line for the shell")
                check(leader.session > 1 and leader.pid > 1, "a signal to whoever has no session")


def _proof(data: bytes) -> None:
    """Host key and signature, the first after two bytes of its size."""
    size = int.from_bytes(data[:2], "big")
    agreed = Agreed(data[2 : 2 + size], data[2 + size :], b"", b"")
    for algorithm in (b"ssh-ed25519", b"ecdsa-sha2-nistp256", b"rsa-sha2-512", b"ssh-ed25519-cert-v01@openssh.com"):
        try:
            check_proof(agreed, algorithm, bytes(32), 1024)
        except BadProof as error:
            check_words(error)
        else:
            check(_proved()[-64:] in data, "a proof that is none")


def _signer() -> Any:
    return ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))


def _public() -> bytes:
    return bytes(Key(_signer()).blob())


def _certified(kind: int = 2, name: bytes = b"*.example") -> bytes:
    """A certificate of a key that signs itself."""
    public = _public()
    body = b"".join(
        (
            NS(b"ssh-ed25519-cert-v01@openssh.com"),
            NS(b"nonce"),
            public[4 + 11 :],
            bytes(8),
            kind.to_bytes(4, "big"),
            NS(b"of a test"),
            NS(NS(name) + NS(b"b")),
            bytes(8),
            b"\xff" * 8,
            NS(b""),
            NS(NS(b"permit-pty") + NS(b"")),
            NS(b""),
            NS(public),
        )
    )
    return body + NS(Key(_signer()).sign(body))


def _proved() -> bytes:
    public = _public()
    return len(public).to_bytes(2, "big") + public + bytes(Key(_signer()).sign(bytes(32)))


def _seeds() -> Iterator[bytes]:
    key = base64.b64encode(_public())
    hashed = b"|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg="
    lines = (
        _HOST.encode() + b",[10.1.2.3]:2222 ssh-ed25519 " + key + b" comment",
        b"*.example,!web1.* ssh-ed25519 " + key,
        hashed + b" ssh-ed25519 " + key,
        b"@revoked * ssh-ed25519 " + key,
        b"@cert-authority *.example ssh-ed25519 " + key,
        b"# comment",
        b"a,b?c ssh-rsa AAAAB3NzaC1yc2EAAAABIw==",
    )
    yield bytes((_LINES,)) + b"\n".join(lines)
    yield from (bytes((_LINES,)) + line for line in lines)
    yield bytes((_LINES,)) + b"*-" * 4 + b"x ssh-ed25519 " + key + bytes((0, 1, 6, 0xFF))
    yield bytes((_BLOB,)) + _certified()
    yield bytes((_BLOB,)) + _certified(1, b"user")
    yield bytes((_BLOB,)) + _public()
    yield bytes((_USER,)) + b"ssh-ed25519-cert-v01@openssh.com " + base64.b64encode(_certified(1, b"user")) + b" me"
    listing = (
        b"me 10 9",
        b"leader 11 9 11 500 S [10.0.0.1 5000 10.0.0.2 22] sh\x01-c\x01sleep 1\x01",
        b"leader 12 9 12 501 S [10.0.0.1 5000 10.0.0.2 22] sh\x01-c\x01sleep 2\x01",
        b"leader 13 12 13 502 Z [10.0.0.1 5000 10.0.0.2 22] x\x01",
        b"end",
    )
    yield bytes((_LISTING,)) + b"\n".join(listing)
    yield bytes((_LISTING,)) + b"\n".join(listing) + bytes((8, 63, 10, 0xFF))
    yield bytes((_PROOF,)) + _proved()
    point = NS(b"ecdsa-sha2-nistp256") + NS(b"nistp256") + NS(b"\4" + bytes(64))
    yield (
        bytes((_PROOF,))
        + len(point).to_bytes(2, "big")
        + point
        + NS(b"ecdsa-sha2-nistp256")
        + NS(NS(b"\1") + NS(b"\1"))
    )
    rsa = NS(b"ssh-rsa") + NS(b"\1\0\1") + NS(b"\0\xff" + bytes(255))
    yield bytes((_PROOF,)) + len(rsa).to_bytes(2, "big") + rsa + NS(b"rsa-sha2-512") + NS(bytes(256))


_WORDS = (
    *(b"ssh-ed25519", b"ssh-rsa", b"ecdsa-sha2-nistp256", b"nistp256", b"-cert-v01@openssh.com", b"sk-ssh-ed25519"),
    *(b"@revoked ", b"@cert-authority ", b"|1|", b"*", b"?", b"!", b",", b"[", b"]:", b" AAAA", b"rsa-sha2-512"),
    *(b"me ", b"leader ", b" [", b"] ", b"\x01-c\x01", b"end", b" Z ", b"-1", b" 0 ", b"9" * 4400),
    *(bytes((0, 0, 0, number)) for number in range(5)),
    *(b"\xff" * 8, b"\0\0\0\x0bssh-ed25519", b"\0\0\0\x07ssh-rsa"),
)

TARGETS = {"ssh-trust": Target(_run, _seeds, _WORDS)}
