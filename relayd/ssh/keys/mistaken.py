"""
What a text is that was given as a private key or as a certificate, and is something else.

Only names from lists of this module are ever shown of it: it may hold a secret.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final
from urllib.parse import unquote_plus

from relayd.language.texts import Text
from relayd.ssh.keys.types import is_certified, key_type

#: Characters of a text in which the first line of a key is.
_ENOUGH: Final = 512
#: The longest line that may be a path, a fingerprint or a placeholder, in characters: ``PATH_MAX`` of Linux.
_MAX_LINE: Final = 4096
_PUTTY: Final = "PuTTY-User-Key-File-"
#: Labels of private keys in PEM that a library reads (RFC 7468, sections 10 and 11; PKCS#1; SEC 1; OpenSSH).
_READ: Final = re.compile(r"-----BEGIN (?:(?:RSA|EC|DSA|OPENSSH|ENCRYPTED) )?PRIVATE KEY-----")
#: Any label of PEM (RFC 7468), and those of ssh.com (RFC 4716), which have four hyphens and a blank.
_LABEL: Final = re.compile(r"----[- ]BEGIN ([A-Z0-9 ]{1,64}?) ?----")
_ALMOST: Final = re.compile(r"BEGIN [a-z0-9 ]{0,32}PRIVATE KEY", re.IGNORECASE)
_PUBLIC: Final = re.compile(
    r"(?<![\w-])((?:ssh-(?:ed25519|rsa|dss)|ecdsa-sha2-nistp(?:256|384|521)|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256))"
    r"(?:-cert-v01)?(?:@openssh\.com)?)\s+(AAAA[A-Za-z0-9+/]+={0,2})"
)
_FINGERPRINT: Final = re.compile(
    r"(?:^|\s)(?:SHA256:[A-Za-z0-9+/]{43}=?|(?:MD5:)?(?:[0-9a-f]{2}:){15}[0-9a-f]{2})(?:\s|$)"
)
_AGE: Final = re.compile(r"^(?:age1|AGE-SECRET-KEY-1|AGE-PLUGIN-)", re.MULTILINE)
_PATH: Final = re.compile(
    r"""["']?(?:(?:file:/*|~[\w.-]*/|/|\.{1,2}/|[A-Za-z]:[\\/]|\\\\|[$%]\{?[A-Z]+[%}]?[\\/])[^\n]*"""
    r"""|[\w ./\\-]*(?:id_(?:rsa|dsa|ecdsa|ed25519)(?:_sk)?|\.(?:pem|ppk|key|pub)))["']?"""
)
#: What programs write where they have no value, or hide one.
_PLACEHOLDER: Final = re.compile(
    r"\[object \w+\]|undefined|null|None|nil|NaN|<Buffer\b[^\n]*>|\$\{[^\n]*\}|\{\{[^\n]*\}\}|\*+"
    r"|[\[<(]?redacted[\])>]?",
    re.IGNORECASE,
)
#: What the labels of PEM stand for.
_OBJECTS: Final = {
    "PUBLIC KEY": Text("it is a public key"),
    "RSA PUBLIC KEY": Text("it is a public key"),
    "SSH2 PUBLIC KEY": Text("it is a public key"),
    "CERTIFICATE": Text("it is an X.509 certificate"),
    "TRUSTED CERTIFICATE": Text("it is an X.509 certificate"),
    "CERTIFICATE REQUEST": Text("it is a request for an X.509 certificate"),
    "NEW CERTIFICATE REQUEST": Text("it is a request for an X.509 certificate"),
    "PGP PUBLIC KEY BLOCK": Text("it is a key of OpenPGP, which SSH does not use"),
    "PGP PRIVATE KEY BLOCK": Text("it is a key of OpenPGP, which SSH does not use"),
    "PGP MESSAGE": Text("it is encrypted with OpenPGP; decrypt it first"),
    "AGE ENCRYPTED FILE": Text("it is encrypted with age; decrypt it first"),
    "SSH2 ENCRYPTED PRIVATE KEY": Text(
        "it is in the format of ssh.com; convert it, as with puttygen -O private-openssh"
    ),
    "EC PARAMETERS": Text("it has the parameters of a key, and no key"),
    "DSA PARAMETERS": Text("it has the parameters of a key, and no key"),
    "DH PARAMETERS": Text("it has the parameters of a key, and no key"),
}


def not_a_private_key(text: str) -> Text | None:
    """
    Why *text* cannot be a private key in PEM; ``None``: it has the first and the last line of one.

    :param text: lines without blanks around them.
    """
    if _READ.search(text):
        if not re.search(r"-----END [A-Z ]*PRIVATE KEY-----", text):
            return Text("its end is missing: it was cut off")
        return None
    text = text.strip()
    if "-----BEGIN " not in text and "PRIVATE KEY-----" in text.partition("-----END ")[2]:
        return Text("its beginning is missing: the line -----BEGIN … PRIVATE KEY-----")
    return _what(text) or Text("it does not begin with -----BEGIN … PRIVATE KEY-----")


def not_a_certificate(text: str) -> Text | None:
    """What *text* is, which does not begin as the certificate of a user; ``None``: nothing that is known here."""
    if "PRIVATE KEY-----" in text or text.startswith(_PUTTY):
        return Text("it is a private key")
    return _what(text)


def not_a_text(data: bytes) -> Text:
    """What the content of a file is that is not UTF-8."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Text("it is in UTF-16; save it in UTF-8")
    if data.startswith((b"0\x81", b"0\x82")):
        return Text("it is not text, but in DER or PKCS#12; convert it to PEM, as with openssl pkey")
    return Text("it is not UTF-8 text")


def _what(text: str) -> Text | None:
    """What *text* seems to be, if anything that is known here; it is no private key that could be read."""
    if not text:
        return Text("it is empty")
    return _labelled(text) or _by_its_words(text) or _encoded(text)


def _labelled(text: str) -> Text | None:
    label = _LABEL.search(text)
    if label is None:
        if _ALMOST.search(text[:200]):
            return Text(
                "its first line is damaged; it should be -----BEGIN … PRIVATE KEY-----, with five hyphens at each end"
            )
        return None
    if (known := _OBJECTS.get(label[1])) is not None:
        return known
    if label[1].endswith("PRIVATE KEY"):
        return Text("it is a private key in a format that is not supported")
    return Text("it is a PEM text of another kind")


def _by_its_words(text: str) -> Text | None:
    public = _PUBLIC.search(text)
    if public is not None and _type_in(public[2]) == public[1]:
        if is_certified(public[1].encode()):
            return Text("it is an SSH certificate ({type})", type=public[1])
        return Text("it is a public key ({type})", type=public[1])
    if _AGE.search(text):
        return Text("it is a key of age, which SSH does not use")
    if text.startswith("$ANSIBLE_VAULT;"):
        return Text("it is encrypted with Ansible Vault; decrypt it first")
    if "\n" in text or len(text) > _MAX_LINE:
        return None
    if _PLACEHOLDER.fullmatch(text):
        return Text("it looks like a placeholder; the text itself is needed")
    if _FINGERPRINT.search(text):
        return Text("it is the fingerprint of a key")
    if _PATH.fullmatch(text):
        return Text("it looks like the path of a file; what is in the file is needed")
    return None


def _encoded(text: str) -> Text | None:
    """A key that was encoded once more, or lost its first and last line."""
    if text.startswith("{") and '"Buffer"' in text[:64]:
        return Text("it is a Buffer of Node.js in JSON; its text is needed")
    if "%" in text[:64] and _is_key(unquote_plus(text[:_ENOUGH])):
        return _once_more("URL")
    joined = "".join(text.split())
    if re.fullmatch(r"(?:\\x|0x)?[0-9a-fA-F]+", joined):
        inside = bytes.fromhex(joined.lower().removeprefix("\\x").removeprefix("0x").ljust(len(joined) + 1 & ~1, "0"))
        encoding = "hex"
    else:
        inside = _from_base64(joined)
        encoding = "base64"
    if inside.startswith(b"openssh-key-v1\0") or re.match(
        rb"0(?:[\x20-\x7f]|[\x81-\x84].{1,4})\x02\x01[\0\1]", inside, re.DOTALL
    ):
        return Text("its first and its last line are missing: -----BEGIN … PRIVATE KEY----- and -----END …")
    decoded = inside.decode("utf-8", "replace").strip()
    if _is_key(decoded):
        return _once_more(encoding)
    return _labelled(decoded) or _by_its_words(decoded) if inside else None


def _is_key(text: str) -> bool:
    return text.startswith(_PUTTY) or _READ.search(text) is not None


def _once_more(encoding: str) -> Text:
    return Text("it is a private key that is encoded once more ({encoding}); decode it", encoding=encoding)


def _from_base64(text: str) -> bytes:
    """What *text* stands for in base64, also in that of URLs, and without what fills up its end; empty: it is none."""
    bare = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _type_in(blob: str) -> str:
    """The type that a public key in base64 names itself."""
    return key_type(_from_base64(blob)).decode("ascii", "replace")
