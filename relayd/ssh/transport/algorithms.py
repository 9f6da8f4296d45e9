"""
The algorithms that the client offers under each policy, best first.

Conch's own lists have algorithms that were broken or retired years ago, and lack those that hardened servers require.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from relayd.ssh.keys.types import MIN_RSA_BITS, certified, is_certified, key_type_of, uncertified
from relayd.ssh.settings import PolicyName
from relayd.ssh.transport.ciphers import CIPHERS, MACS
from relayd.ssh.transport.key_exchange_methods import METHODS


class AlgorithmPolicy(Struct, frozen=True):
    """
    The algorithms of each kind, the preferred one first; names as in RFC 4253, section 6, and its successors.

    :ivar min_rsa_bits: the least size of a host's RSA key, and of an authority's.
    :ivar last_resort: what to offer on a second connection when nothing is in common. So a host that can do better is
        never asked for less.
    :ivar outdated: algorithms whose use is logged.
    """

    key_exchanges: tuple[bytes, ...]
    host_keys: tuple[bytes, ...]
    ciphers: tuple[bytes, ...]
    macs: tuple[bytes, ...]
    min_rsa_bits: int = 2048
    last_resort: AlgorithmPolicy | None = None
    outdated: frozenset[bytes] = frozenset()


#: The signature of an RSA key with SHA-1; the name is also that of the type of key.
SHA1_SIGNATURE = b"ssh-rsa"


def _available(*names: bytes) -> tuple[bytes, ...]:
    """Those of *names* that the installed libraries make possible."""
    return tuple(name for name in names if name in METHODS or name in CIPHERS or name in MACS)


_SOUND = AlgorithmPolicy(
    key_exchanges=_available(
        b"mlkem768x25519-sha256",
        b"curve25519-sha256",
        b"curve25519-sha256@libssh.org",
        b"diffie-hellman-group16-sha512",
        b"diffie-hellman-group-exchange-sha256",
        # Last, for hosts that have nothing else: its library is young, and ten times as slow.
        b"sntrup761x25519-sha512",
        b"sntrup761x25519-sha512@openssh.com",
    ),
    # Ed25519 first: dropbear 2022.83 with nothing but an Ed25519 key aborts when RSA comes before it.
    host_keys=(b"ssh-ed25519", b"rsa-sha2-512", b"rsa-sha2-256"),
    # AES-GCM first: one pass, in hardware on every machine of the last ten years.
    ciphers=(
        b"aes256-gcm@openssh.com",
        b"aes128-gcm@openssh.com",
        b"chacha20-poly1305@openssh.com",
        b"aes256-ctr",
        b"aes192-ctr",
        b"aes128-ctr",
    ),
    macs=(
        b"hmac-sha2-256-etm@openssh.com",
        b"hmac-sha2-512-etm@openssh.com",
        b"hmac-sha2-256",
        b"hmac-sha2-512",
    ),
)

#: Adds the curves of NIST, which some auditors distrust, a group of 2048 bits, and groups that take long.
COMPATIBLE = replace(
    _SOUND,
    key_exchanges=(
        *_SOUND.key_exchanges,
        b"ecdh-sha2-nistp256",
        b"ecdh-sha2-nistp384",
        b"ecdh-sha2-nistp521",
        b"diffie-hellman-group14-sha256",
        b"diffie-hellman-group15-sha512",
        b"diffie-hellman-group17-sha512",
        b"diffie-hellman-group18-sha512",
    ),
    host_keys=(
        b"ssh-ed25519",
        b"ecdsa-sha2-nistp256",
        b"ecdsa-sha2-nistp384",
        b"ecdsa-sha2-nistp521",
        b"rsa-sha2-512",
        b"rsa-sha2-256",
    ),
)

#: The default: sound algorithms first, and COMPATIBLE for a host that has none of them.
MODERN = replace(_SOUND, last_resort=COMPATIBLE)

_OLD_KEY_EXCHANGES = (
    b"diffie-hellman-group14-sha1",
    b"diffie-hellman-group-exchange-sha1",
    b"diffie-hellman-group1-sha1",
)
_OLD_HOST_KEYS = (b"ssh-rsa", b"ssh-dss")
_OLD_CIPHERS = _available(b"aes256-cbc", b"aes192-cbc", b"aes128-cbc", b"3des-cbc")
_OLD_MACS = _available(b"hmac-sha1-etm@openssh.com", b"hmac-sha1", b"hmac-sha1-96", b"hmac-md5", b"hmac-md5-96")

#: For appliances that nobody updates: adds SHA-1, MD5, CBC, DSA, and RSA keys and groups of 1024 bits.
LEGACY = replace(
    COMPATIBLE,
    key_exchanges=(*COMPATIBLE.key_exchanges, *_OLD_KEY_EXCHANGES),
    host_keys=(*COMPATIBLE.host_keys, *_OLD_HOST_KEYS),
    ciphers=(*COMPATIBLE.ciphers, *_OLD_CIPHERS),
    macs=(*COMPATIBLE.macs, *_OLD_MACS),
    min_rsa_bits=MIN_RSA_BITS,
    outdated=frozenset((*_OLD_KEY_EXCHANGES, *_OLD_HOST_KEYS, *_OLD_CIPHERS, *_OLD_MACS)),
)

POLICIES: dict[PolicyName, AlgorithmPolicy] = {"modern": MODERN, "compatible": COMPATIBLE, "legacy": LEGACY}


def prefer_known(policy: AlgorithmPolicy, known_types: frozenset[bytes]) -> tuple[bytes, ...]:
    """
    The host key algorithms to offer to a host, those for its known keys first.

    A server with several keys then shows the one that can be checked. A known type was good enough once, so it is asked
    for even where *policy* does not offer it at first.

    :param known_types: the types of the host's known keys, and of certificates where an authority is known for it.
        Certificates are asked for before all keys, and only then.
    """
    held_back = tuple(name for name in COMPATIBLE.host_keys if name not in policy.host_keys)
    keys = (*policy.host_keys, *(name for name in held_back if key_type_of(name) in known_types))
    certificates = (certified(name) for name in (*policy.host_keys, *held_back) if name not in _OLD_HOST_KEYS)
    return (
        *(name for name in certificates if key_type_of(name) in known_types),
        *sorted(keys, key=lambda name: key_type_of(name) not in known_types),
    )


def signature_algorithms(key_type: bytes, accepted: bytes | None, policy: AlgorithmPolicy) -> tuple[bytes, ...]:
    """
    The public key algorithms to log in with a private key or its certificate, best first.

    :param key_type: of the key or of the certificate.
    :param accepted: what the server says that it accepts (``server-sig-algs``, RFC 8308, section 3.1), as names for
        plain keys; ``None``: it does not say.
    """
    if uncertified(key_type) != b"ssh-rsa":
        return (key_type,)
    sound = (b"rsa-sha2-512", b"rsa-sha2-256")
    old = (SHA1_SIGNATURE,) if SHA1_SIGNATURE in policy.outdated else ()
    allowed = (*sound, *old)
    names: tuple[bytes, ...]
    if accepted is None:
        # The server is too old for the extension, or does not say: RFC 8332, section 3.3.
        names = (*sound[:1], *old)
    else:
        taken = accepted.split(b",")
        # More than one: OpenSSH before 9.6 names what it knows, not what PubkeyAcceptedAlgorithms allows.
        names = tuple(name for name in allowed if name in taken) or sound[:1]
    return tuple(map(certified, names)) if is_certified(key_type) else names
