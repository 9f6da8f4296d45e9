"""
Why a server may refuse the right key: it does not accept the kind of signature that is made with it.

Source: RFC 8308, section 3.1 (``server-sig-algs``); RFC 8332, section 3.3 (servers that do not say).
"""

from __future__ import annotations

import re

from relayd.language.texts import Text, printable_bytes
from relayd.ssh.keys.types import certified, is_certified, uncertified
from relayd.ssh.transport.algorithms import SHA1_SIGNATURE, AlgorithmPolicy

_OPENSSH = re.compile(rb"SSH-[\d.]+-OpenSSH_(\d+)\.(\d+)")
#: The first version of OpenSSH that accepts RSA signatures with SHA-2, and says what it accepts.
_KNOWS_SHA2 = (7, 2)


def may_want_sha1(algorithm: bytes, accepted: bytes | None, policy: AlgorithmPolicy) -> bool:
    """
    Whether a server that refuses a key may accept the same key with SHA-1, which *policy* does not allow.

    See `doubt_of` for what it takes.
    """
    if not algorithm.startswith(b"rsa-sha2-") or SHA1_SIGNATURE in policy.outdated:
        return False
    # OpenSSH 8.8 to 9.5 name all that they know, whatever they accept.
    return accepted is None or SHA1_SIGNATURE in accepted.split(b",")


def sha1_algorithm(key_type: bytes) -> bytes:
    """The algorithm of SHA-1 signatures for an RSA key, or for the certificate of one."""
    return certified(SHA1_SIGNATURE) if is_certified(key_type) else SHA1_SIGNATURE


def doubt_of(algorithm: bytes, accepted: bytes | None, policy: AlgorithmPolicy, version: bytes) -> Text | None:
    """
    What to say about a key if it is refused; ``None``: nothing.

    :param algorithm: of its signature.
    :param accepted: the algorithms that the server says it accepts, as names for plain keys; ``None``: it does not say.
    :param version: the line that the server sent first.
    """
    plain = uncertified(algorithm)
    is_rsa = plain.startswith(b"rsa-sha2-")
    if accepted:
        taken = [uncertified(name) for name in accepted.split(b",")]
        if plain in taken:
            return None
        if is_rsa and SHA1_SIGNATURE in taken:
            return Text(
                "the server accepts RSA signatures with SHA-1 (ssh-rsa) only, which the legacy algorithms allow"
            )
        if not is_rsa and all(name.startswith(b"rsa-sha2-") for name in taken):
            return None  # OpenSSH before 7.6 named nothing else, whatever it accepted
        return Text(
            "the server does not accept {algorithm}, only {names}",
            algorithm=printable_bytes(plain),
            names=printable_bytes(accepted),
        )
    if not is_rsa or SHA1_SIGNATURE in policy.outdated:
        return None
    found = _OPENSSH.match(version)
    if found and (int(found[1]), int(found[2])) < _KNOWS_SHA2:
        return Text(
            "the server, {version}, accepts RSA signatures with SHA-1 only, which the legacy algorithms allow",
            version=printable_bytes(version),
        )
    return Text(
        "the server does not say which signatures it accepts; an old one accepts RSA signatures with SHA-1 only, which "
        "the legacy algorithms allow"
    )
