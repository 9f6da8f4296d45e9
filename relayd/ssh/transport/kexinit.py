"""
The KEXINIT of both sides: the algorithms that the client offers, and those that it has in common with the server.

Source: RFC 4253, section 7.1; RFC 8308, section 2.1; OpenSSH's PROTOCOL, section 1.10 (strict key exchange).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from twisted.conch.ssh.common import NS, getNS

from relayd.language.texts import Text
from relayd.ssh.transport.algorithms import AlgorithmPolicy
from relayd.ssh.transport.breach import Breach
from relayd.ssh.transport.ciphers import is_authenticated

EXT_INFO = b"ext-info-c"
STRICT_CLIENT = b"kex-strict-c-v00@openssh.com"
STRICT_SERVER = b"kex-strict-s-v00@openssh.com"
_COOKIE_SIZE = 16
#: The longest KEXINIT of a server that is read, in bytes; known ones have some 1,500.
MAX_KEXINIT = 35_000


class NothingInCommon(Exception):
    """
    Client and server offer different algorithms of one kind.

    :ivar payload: of the server's KEXINIT.
    """

    def __init__(self, kind: str, theirs: Sequence[bytes], ours: Sequence[bytes], payload: bytes) -> None:
        super().__init__(kind)
        self.kind = kind
        self.theirs = theirs
        self.ours = ours
        self.payload = payload


class NegotiatedAlgorithms:
    """
    The algorithms of one key exchange: of each kind, the first of ours that the server has, too.

    What is named ``out`` is for what the client sends, ``in`` for what the server sends.
    """

    __slots__ = ("cipher_in", "cipher_out", "host_key", "key_exchange", "mac_in", "mac_out", "strict")

    def __init__(self, payload: bytes, ours: AlgorithmPolicy, host_keys: Sequence[bytes]) -> None:
        """
        :param payload: of the server's KEXINIT.
        :param host_keys: the host key algorithms that we offered, in our order.
        :raises NothingInCommon: when client and server have no algorithm of one kind in common.
        :raises Breach: when the KEXINIT is too long.
        """
        if len(payload) > MAX_KEXINIT:
            raise Breach("a KEXINIT of {size} bytes", size=len(payload))
        theirs = [field.split(b",") for field in getNS(payload[_COOKIE_SIZE:], 10)[:10]]

        def choose(kind: str, offered: Sequence[bytes], at: int) -> bytes:
            for name in offered:
                if name in known[at]:
                    return name
            raise NothingInCommon(kind, theirs[at], offered, payload)

        known = [frozenset(names) for names in theirs[:6]]
        self.key_exchange = choose(Text("key exchange"), ours.key_exchanges, 0)
        self.host_key = choose(Text("host key type"), host_keys, 1)
        self.cipher_out = choose(Text("cipher"), ours.ciphers, 2)
        self.cipher_in = choose(Text("cipher"), ours.ciphers, 3)
        self.mac_out = None if is_authenticated(self.cipher_out) else choose(Text("MAC"), ours.macs, 4)
        self.mac_in = None if is_authenticated(self.cipher_in) else choose(Text("MAC"), ours.macs, 5)
        self.strict = STRICT_SERVER in theirs[0]

    def names(self) -> set[bytes]:
        """Every algorithm in use."""
        names = (self.key_exchange, self.host_key, self.cipher_in, self.cipher_out, self.mac_in, self.mac_out)
        return {name for name in names if name is not None}


def kexinit(policy: AlgorithmPolicy, host_keys: Sequence[bytes]) -> bytes:
    """
    The payload of our KEXINIT, without its number.

    :param host_keys: the host key algorithms, in our order for this host.
    """
    ciphers, macs = NS(b",".join(policy.ciphers)), NS(b",".join(policy.macs))
    return b"".join(
        (
            os.urandom(_COOKIE_SIZE),
            NS(b",".join((*policy.key_exchanges, EXT_INFO, STRICT_CLIENT))),
            NS(b",".join(host_keys)),
            ciphers,
            ciphers,
            macs,
            macs,
            NS(b"none") * 2,  # compression
            NS(b"") * 2,  # languages
            b"\0",  # no guess follows
            bytes(4),
        )
    )
