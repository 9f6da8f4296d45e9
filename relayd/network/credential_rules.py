"""
Which of a site's credentials is for which hosts and users, and through which jump hosts: the rules, without what their
files hold.
"""

from __future__ import annotations

from msgspec import Struct

from relayd.network.patterns import covers_host, covers_user
from relayd.network.spelling import canonical_host, dialled_host, read_destination


class CredentialRule(Struct, frozen=True, kw_only=True):
    """
    Which credential is for which hosts and users. Paths are absolute.

    :ivar hosts: patterns, see `relayd.network.patterns.covers_host`.
    :ivar users: patterns of user names, see `relayd.network.patterns.covers_user`.
    :ivar key_file: file of a private key.
    :ivar passphrase_file: file whose first line decrypts the key.
    :ivar certificate_file: certificate of the key; by default ``KEY_FILE-cert.pub`` where that exists, as with OpenSSH.
    :ivar password_file: file whose first line is a password.
    :ivar agent: path of an ssh-agent's socket.
    :ivar via: jump hosts, see `parse_via`; empty: none. Their own credentials come from the
        same table.
    """

    hosts: tuple[str, ...]
    users: tuple[str, ...] = ("*",)
    key_file: str | None = None
    passphrase_file: str | None = None
    certificate_file: str | None = None
    password_file: str | None = None
    agent: str | None = None
    via: str | None = None

    @property
    def has_credential(self) -> bool:
        """Whether it says how to log in, and not only by which way."""
        return bool(self.key_file or self.password_file or self.agent)

    @property
    def says(self) -> tuple[str, ...]:
        """Of what it says something: of the credential, of the way, or of both."""
        parts = {"credential": self.has_credential, "via": self.via is not None}
        return tuple(name for name, said in parts.items() if said)

    def covers(self, host: str, port: int, user: str) -> bool:
        """Whether this rule is for a login."""
        return covers_host(self.hosts, host, port) and covers_user(self.users, user)


class Hop(Struct, frozen=True):
    """
    One jump host.

    :ivar host: its one spelling, see `relayd.network.spelling.Host.name`.
    :ivar username: ``None``: the user of the host behind it.
    :ivar looked_up: what is dialled, where that is not *host*.
    """

    host: str
    port: int = 22
    username: str | None = None
    looked_up: str | None = None

    def __str__(self) -> str:
        """It as `parse_via` reads it."""
        host = self.looked_up or self.host
        place = f"[{host}]" if ":" in host else host
        user = "" if self.username is None else f"{self.username}@"
        return f"{user}{place}" + ("" if self.port == 22 else f":{self.port}")


def parse_via(text: str) -> tuple[Hop, ...]:
    """
    Jump hosts as ``ssh -J`` takes them: ``[USER@]HOST[:PORT]``, separated by commas, the nearest first; none in an
    empty text.

    :raises ValueError: for a text of another form.
    """
    try:
        hops = [read_destination(part.strip()) for part in text.split(",")] if text else []
    except ValueError:
        raise ValueError("via is not of the form [user@]host[:port], with commas between several") from None
    return tuple(Hop(canonical_host(hop.host), hop.port, hop.username, dialled_host(hop.host)) for hop in hops)
