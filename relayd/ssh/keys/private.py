"""
Private keys: read from text in the common formats, outside of the reactor's thread, and kept parsed for a while.

Errors of the libraries may show parts of a key, so none of them leaves this module.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key
from twisted.conch.ssh.keys import Key
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from relayd.language.texts import Fault, Text
from relayd.ssh.keys.containers import BadContainer, inspect_container
from relayd.ssh.keys.mistaken import not_a_private_key
from relayd.ssh.keys.putty import HEADER, PuttyKeyError, parse_putty_key
from relayd.ssh.keys.types import MIN_RSA_BITS
from relayd.ssh.target import Credential

#: The longest RSA key taken, in bits: a signature with a longer one takes a third of a second.
MAX_SIGNING_RSA_BITS = 8192
#: The longest RSA key that signs in the reactor's thread, which takes a millisecond: 3,072 bits take 3, 8,192 up to 80.
MAX_QUICK_RSA_BITS = 2048
#: Seconds for which a parsed key is kept after its last use: many connections may be opened with it in a row.
KEPT = 10.0
_BLANKS = "\ufeff \t\r\n"
_ESCAPED = re.compile(r"(?<!\\)\\(?:r\\n|n|r)")
# Only after a first line: what openssl writes before it may have a name such as \\nas\share
_ESCAPED_TWICE = re.compile(rf"(?:-----|{HEADER}[^\\\n]{{0,40}})\\{{2,}}[rn]")


class UnreadableKey(Fault):
    """A private key cannot be used; the argument says why, and shows nothing of the key."""


def parse_private_key(text: str, passphrase: str | None = None) -> Key:
    """
    Read a private key in OpenSSH's format, PKCS#1, SEC 1, PKCS#8 or PuTTY's, encrypted or not.

    An encrypted key may take seconds, in which other threads can run.

    :raises UnreadableKey: when it cannot be used.
    """
    clean = _lines(text)
    loaded = _load_putty(clean, passphrase) if clean.startswith(HEADER) else _load_pem(clean, passphrase)
    if isinstance(loaded, rsa.RSAPrivateKey):
        _check_rsa(loaded)
    elif isinstance(loaded, ec.EllipticCurvePrivateKey):
        if loaded.curve.name not in ("secp256r1", "secp384r1", "secp521r1"):
            raise UnreadableKey("its elliptic curve is not used in SSH")
    elif not isinstance(loaded, ed25519.Ed25519PrivateKey):
        raise UnreadableKey("it is neither Ed25519, ECDSA nor RSA")
    return Key(loaded)


def _lines(text: str) -> str:
    """
    The lines of a key, which lose their ends on their way through forms, tables and JSON.

    Ends that are escaped are put right, as they are in a piece of JSON that somebody pasted. Those that are escaped
    twice are not: what does that to a key does it to other texts too, such as the command.
    """
    text = text.strip(_BLANKS)
    # With lines of its own, PuTTY's key may have a comment such as C:\new
    if not (text.startswith(HEADER) and "\n" in text):
        text = _ESCAPED.sub("\n", text).strip(_BLANKS)
        if _ESCAPED_TWICE.search(text):
            raise UnreadableKey("its line ends are escaped twice (\\\\n); escape the text once, or not at all")
    lines = [line.strip() for line in text.splitlines()]
    if not any(line.startswith("Proc-Type:") for line in lines):  # there, an empty line ends the header
        lines = [line for line in lines if line]
    return "\n".join(lines) + "\n"


def _check_rsa(key: rsa.RSAPrivateKey) -> None:
    bits = key.key_size
    if bits < MIN_RSA_BITS:
        raise UnreadableKey(
            "it is an RSA key of {bits} bits, and needs {least} at least", bits=bits, least=MIN_RSA_BITS
        )
    if bits > MAX_SIGNING_RSA_BITS:
        most = MAX_SIGNING_RSA_BITS
        raise UnreadableKey("it is an RSA key of {bits} bits, and may have {most} at most", bits=bits, most=most)
    if not _is_consistent(key.private_numbers()):
        raise UnreadableKey("its content is damaged")


def _load_putty(clean: str, passphrase: str | None) -> object:
    try:
        return parse_putty_key(clean, passphrase)
    except PuttyKeyError as reason:
        raise UnreadableKey(reason.text) from None
    except Exception:
        raise UnreadableKey("its content is damaged") from None


def _load_pem(clean: str, passphrase: str | None) -> object:
    reason = not_a_private_key(clean)
    if reason is not None:
        raise UnreadableKey(reason)
    try:
        container = inspect_container(clean)
    except BadContainer as fault:
        raise UnreadableKey(fault.text) from None
    encrypted = container.encrypted
    if encrypted and passphrase is None:
        raise UnreadableKey(container.unsupported or Text("it is encrypted, and no passphrase was given"))
    load = load_ssh_private_key if "BEGIN OPENSSH PRIVATE KEY" in clean else load_pem_private_key
    secret = passphrase.encode("utf-8") if passphrase is not None and encrypted else None
    try:
        # The validation that is skipped checks that the factors are primes. It locks the interpreter for 0.26 s with
        # 4,096 bits, and for 4 s with 8,192. OpenSSH skips it, too.
        return load(clean.encode("utf-8", "replace"), password=secret, unsafe_skip_rsa_key_validation=True)
    except UnsupportedAlgorithm:
        raise UnreadableKey(container.unsupported or Text("its type is not supported")) from None
    except Exception:
        # A wrong passphrase turns the content into noise, which now and then looks like content.
        if encrypted:
            wrong = Text("the passphrase is wrong, or its content is damaged")
            raise UnreadableKey(container.unsupported or wrong) from None
        raise UnreadableKey("its content is damaged") from None


def _is_consistent(numbers: rsa.RSAPrivateNumbers) -> bool:
    """Whether the parts of an RSA key fit each other (RFC 8017, section 3.2). In a damaged key they do not."""
    p, q, d, e = numbers.p, numbers.q, numbers.d, numbers.public_numbers.e
    return (
        min(p, q) > 1
        and p * q == numbers.public_numbers.n
        and d * e % (p - 1) == d * e % (q - 1) == 1
        and numbers.dmp1 == d % (p - 1)
        and numbers.dmq1 == d % (q - 1)
        and numbers.iqmp * q % p == 1
    )


def sign(key: Key, data: bytes, algorithm: bytes) -> bytes:
    """Sign *data* with an algorithm such as ``rsa-sha2-512``. Meanwhile other threads can run."""
    signature: bytes = key.sign(data, signatureType=algorithm)
    return signature


class KeyStore:
    """
    Parses private keys, and keeps each for `KEPT` seconds after its last use.

    Keys with a passphrase are parsed one after another, as the author of a key chooses how many seconds and how much
    memory it takes.

    :param clock: provides time.
    :param in_pool: runs a function in a thread, as `twisted.internet.threads.deferToThread`.
    :param one_by_one: runs functions in a thread of their own, one after another, as `relayd.ssh.worker.Worker.run`.
    :param sign_in: the same in another thread, for signatures; ``None``: all are made at once.
    :param size: most parsed keys that are kept; the one unused for longest is forgotten first.
    """

    def __init__(
        self,
        clock: IReactorTime,
        in_pool: Callable[..., Deferred[Key]],
        one_by_one: Callable[..., Deferred[Key]],
        sign_in: Callable[..., Deferred[bytes]] | None = None,
        size: int = 256,
    ) -> None:
        self._clock = clock
        self._in_pool = in_pool
        self._one_by_one = one_by_one
        self._sign_in = sign_in
        self._size = size
        #: Each key with the time when it is forgotten, the earliest first.
        self._parsed: OrderedDict[bytes, tuple[float, Key]] = OrderedDict()
        self._forget_call: IDelayedCall | None = None
        self._parsing: dict[bytes, Deferred[Key]] = {}
        self._waiting: dict[bytes, list[Deferred[Key]]] = {}

    def load(self, credential: Credential) -> Deferred[Key]:
        """
        The private key of a credential that has one.

        It is parsed once for all who ask meanwhile; when one of them cancels, the others still get it.

        :return: a Deferred that fails with `UnreadableKey`.
        """
        digest = credential.digest
        found = self._parsed.pop(digest, None)
        if found is not None:
            self._keep(digest, found[1])
            return succeed(found[1])
        waiting: Deferred[Key] = Deferred(partial(self._given_up, digest))
        others = self._waiting.get(digest)
        if others is not None:
            others.append(waiting)
            return waiting
        self._waiting[digest] = [waiting]
        # Without a passphrase no key is decrypted, so none takes long.
        run = self._in_pool if credential.passphrase is None else self._one_by_one
        assert credential.private_key is not None
        parsing = maybeDeferred(run, parse_private_key, credential.private_key, credential.passphrase)
        self._parsing[digest] = parsing
        parsing.addCallbacks(self._parsed_well, self._parsed_badly, callbackArgs=(digest,), errbackArgs=(digest,))
        return waiting

    def sign(self, key: Key, data: bytes, algorithm: bytes) -> bytes | Deferred[bytes]:
        """
        Sign *data*; with a long RSA key in a thread.

        :return: the signature, or a Deferred. What is cancelled before its turn comes is not signed.
        """
        if self._sign_in is None or key.type() != "RSA" or key.size() <= MAX_QUICK_RSA_BITS:
            return sign(key, data, algorithm)
        return self._sign_in(sign, key, data, algorithm)

    def close(self) -> None:
        """Forget all keys."""
        self._parsed.clear()
        call, self._forget_call = self._forget_call, None
        if call is not None:
            call.cancel()

    def _given_up(self, digest: bytes, waiting: Deferred[Key]) -> None:
        """Nobody waits for a key any more: do not parse it, unless that has begun."""
        others = self._waiting[digest]
        others.remove(waiting)
        if not others:
            self._parsing[digest].cancel()

    def _parsed_well(self, key: Key, digest: bytes) -> None:
        self._keep(digest, key)
        for waiting in self._no_more_waiting(digest):
            waiting.callback(key)

    def _parsed_badly(self, failure: Failure, digest: bytes) -> None:
        """Pass on only this module's own words about a key: no error of a library, and no frame with the key's text."""
        error = failure.value
        text = error.text if isinstance(error, UnreadableKey) else Text("it is damaged")
        for waiting in self._no_more_waiting(digest):
            waiting.errback(UnreadableKey(text))

    def _no_more_waiting(self, digest: bytes) -> list[Deferred[Key]]:
        del self._parsing[digest]
        return self._waiting.pop(digest)

    # Keeping, and forgetting

    def _keep(self, digest: bytes, key: Key) -> None:
        self._parsed[digest] = (self._clock.seconds() + KEPT, key)
        if len(self._parsed) > self._size:
            self._parsed.popitem(last=False)
        if self._forget_call is None:
            self._forget_call = self._clock.callLater(KEPT, self._forget)

    def _forget(self) -> None:
        self._forget_call = None
        while self._parsed:
            digest, (until, _key) = next(iter(self._parsed.items()))
            left = until - self._clock.seconds()
            if left > 0:
                self._forget_call = self._clock.callLater(left, self._forget)
                return
            del self._parsed[digest]
