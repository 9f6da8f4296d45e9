"""
Private keys: read from text in the common formats, off the reactor's thread, and kept parsed.

Errors of the libraries below may echo what they were given, so none of them leaves this module.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key
from twisted.conch.ssh.keys import Key
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from relayd.ssh.putty import HEADER, PuttyKeyError, parse_putty_key
from relayd.ssh.target import Credential

#: RSA keys shorter than this are refused: OpenSSH refuses them too (RequiredRSASize).
MINIMUM_RSA_BITS = 1024


class UnreadableKey(Exception):
    """A key text cannot be used; the argument says why, and shows nothing of it."""


def parse_private_key(text: str, passphrase: str | None = None) -> Key:
    """
    Read a private key: OpenSSH's own format, PKCS#1, SEC 1, PKCS#8 or PuTTY's, encrypted or not.

    This may take a tenth of a second for a long RSA key, whose parts are checked, and longer for an encrypted one.

    :raises UnreadableKey: naming what is wrong with it.
    """
    # Keys come through forms, tables and JSON, and lose their line ends on the way.
    unescaped = text.replace("\\r", "").replace("\\n", "\n").strip("\ufeff \t\r\n")
    lines = [line.strip() for line in unescaped.splitlines()]
    if not any(line.startswith("Proc-Type:") for line in lines):  # there, an empty line ends the header
        lines = [line for line in lines if line]
    clean = "\n".join(lines) + "\n"
    loaded = _load_putty(clean, passphrase) if clean.startswith(HEADER) else _load_pem(clean, passphrase)
    if isinstance(loaded, rsa.RSAPrivateKey):
        if loaded.key_size < MINIMUM_RSA_BITS:
            raise UnreadableKey(f"its {loaded.key_size} RSA bits are fewer than {MINIMUM_RSA_BITS}")
    elif isinstance(loaded, ec.EllipticCurvePrivateKey):
        if loaded.curve.name not in ("secp256r1", "secp384r1", "secp521r1"):
            raise UnreadableKey("its elliptic curve is not one that SSH has")
    elif not isinstance(loaded, ed25519.Ed25519PrivateKey):
        raise UnreadableKey("it is neither Ed25519, ECDSA nor RSA")
    return Key(loaded)


def _load_putty(clean: str, passphrase: str | None) -> object:
    try:
        return parse_putty_key(clean, passphrase)
    except PuttyKeyError as reason:
        raise UnreadableKey(*reason.args) from None
    except Exception:
        raise UnreadableKey("its content is damaged") from None


def _load_pem(clean: str, passphrase: str | None) -> object:
    if "-----BEGIN " not in clean:
        raise UnreadableKey("it does not begin with -----BEGIN … PRIVATE KEY-----")
    if "PRIVATE KEY-----" not in clean:
        raise UnreadableKey("it is not a private key but another PEM object, such as a public key or a certificate")
    if "-----END " not in clean:
        raise UnreadableKey("its end is missing: it was cut off")
    data = clean.encode("utf-8", "replace")
    load = load_ssh_private_key if "BEGIN OPENSSH PRIVATE KEY" in clean else load_pem_private_key
    secret = None if passphrase is None else passphrase.encode("utf-8")
    try:
        return _load_with(load, data, secret)
    except UnsupportedAlgorithm:
        raise UnreadableKey("it is of a kind or encryption that is not supported") from None
    except Exception as error:
        # The loaders tell these cases apart by their words alone.
        words = str(error).lower()
        if passphrase is None and ("encrypted" in words or "password" in words):
            raise UnreadableKey("it is encrypted, and no passphrase was given") from None
        if passphrase is not None and ("password" in words or "checksum" in words or "decrypt" in words):
            raise UnreadableKey("the passphrase is wrong") from None
        raise UnreadableKey("its content is damaged") from None


def _load_with(load: Callable[..., object], data: bytes, passphrase: bytes | None) -> object:
    try:
        return load(data, password=passphrase)
    except TypeError:
        # What both loaders raise for a passphrase that is missing, and for one that is not needed.
        if passphrase is None:
            raise
        return load(data, password=None)


class KeyStore:
    """
    Parses each key once.

    :param defer_to_thread: runs a function away from the reactor; `twisted.internet.threads.deferToThread` does.
    :param size: how many parsed keys are kept; the one unused for longest leaves first.
    """

    def __init__(self, defer_to_thread: Callable[..., Deferred[Key]], size: int = 256) -> None:
        self._defer_to_thread = defer_to_thread
        self._size = size
        self._parsed: OrderedDict[bytes, Key] = OrderedDict()

    def load(self, credential: Credential) -> Deferred[Key]:
        """
        The key of a credential that has one.

        :return: a Deferred that fails with `UnreadableKey`.
        """
        key = self._parsed.get(credential.digest)
        if key is not None:
            self._parsed.move_to_end(credential.digest)
            return succeed(key)
        assert credential.private_key is not None
        loading = self._defer_to_thread(parse_private_key, credential.private_key, credential.passphrase)
        loading.addCallbacks(self._keep, _forget_details, callbackArgs=(credential.digest,))
        return loading

    def _keep(self, key: Key, digest: bytes) -> Key:
        self._parsed[digest] = key
        while len(self._parsed) > self._size:
            self._parsed.popitem(last=False)
        return key


def _forget_details(failure: Failure) -> Failure:
    """Only what this module says about a key may travel on: not a library's error, nor a frame with the text in it."""
    error = failure.value
    return Failure(UnreadableKey(*error.args) if isinstance(error, UnreadableKey) else UnreadableKey("it is damaged"))
