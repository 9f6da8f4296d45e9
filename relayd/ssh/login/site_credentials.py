"""
The site's own credentials: for which hosts and users they are, and how their files are read, each time they are used.

With them, whoever orders a command needs no secret.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from weakref import ref

from msgspec import Struct

from relayd.language.texts import Text
from relayd.network.descriptors import words_of
from relayd.network.patterns import check_host_pattern, check_user_pattern, covers_host, covers_user
from relayd.network.private_files import is_open_to_others
from relayd.network.spelling import canonical_host, dialled_host, read_destination
from relayd.ssh.errors import CredentialUnusable, NoCredential
from relayd.ssh.target import Credential, Target

#: The largest file that is read, in bytes; the longest RSA key has some 13,000.
MAX_FILE = 256 * 1024
#: Hosts on the way to a host; more than a few are a loop in the table.
MAX_HOPS = 8


class CredentialRule(Struct, frozen=True, kw_only=True):
    """
    Which credential is for which hosts and users.

    :ivar hosts: patterns, see `relayd.network.patterns.covers_host`.
    :ivar users: patterns of user names, likewise.
    :ivar key_file: private key.
    :ivar passphrase_file: what decrypts it, on the first line.
    :ivar certificate_file: by default ``KEY_FILE-cert.pub`` where that is there, as with OpenSSH.
    :ivar password_file: password, on the first line.
    :ivar agent: path of an ssh-agent's socket.
    :ivar via: jump hosts as for ``ssh -J``: ``[USER@]HOST[:PORT]``, commas between, the nearest first; empty: none.
        Their own credentials come from the same table.
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

    def covers(self, host: str, port: int, user: str) -> bool:
        """Whether this rule is for a login."""
        return covers_host(self.hosts, host, port) and covers_user(self.users, user)


class Hop(Struct, frozen=True):
    """
    One jump host, as `CredentialRule.via` names it.

    :ivar host: see `Target.host`, and `Target.looked_up`.
    :ivar username: ``None``: the user of the host behind.
    """

    host: str
    port: int = 22
    username: str | None = None
    looked_up: str | None = None


class CredentialTable:
    """
    Rules, of which the first that covers a login counts: of those that hold a credential for the credential, of those
    that name jump hosts for the way, as in ssh_config(5).

    Files are read when they are used, and again when they have changed: a rotated key needs no restart.  What they hold
    is kept as long as somebody uses it, such as a connection, and no longer.

    :raises ValueError: for a rule that makes no sense; says which and why.
    """

    def __init__(self, rules: Iterable[CredentialRule]) -> None:
        self._rules = tuple(rules)
        self._read: dict[CredentialRule, tuple[tuple[object, ...], ref[Credential]]] = {}
        for number, rule in enumerate(self._rules, start=1):
            try:
                _check(rule)
            except ValueError as reason:
                raise ValueError(f"credential {number}: {reason}") from None

    @property
    def rules(self) -> tuple[CredentialRule, ...]:
        """All of them, in their order."""
        return self._rules

    def __bool__(self) -> bool:
        return bool(self._rules)

    def find(self, host: str, port: int, user: str) -> CredentialRule | None:
        """The rule with the credential for a login, if any."""
        return next((rule for rule in self._rules if rule.has_credential and rule.covers(host, port, user)), None)

    def hops(self, host: str, port: int, user: str) -> tuple[Hop, ...]:
        """The jump hosts before a host, as its rule names them: those before these not included; empty: none."""
        rules = (rule for rule in self._rules if rule.via is not None and rule.covers(host, port, user))
        return _hops_before(next(rules, None), host, port)

    def is_direct(self, host: str, port: int, user: str) -> bool:
        """
        Whether the site itself goes to a host directly: as this user, or as anybody, where it has no rule for the user.
        """
        if any(rule.covers(host, port, user) for rule in self._rules):
            return not self.hops(host, port, user)
        return not any(_hops_before(rule, host, port) for rule in self._rules if covers_host(rule.hosts, host, port))

    def way(self, host: str, port: int, user: str) -> Target | None:
        """
        The jump host through which a host is reached, which may have others before it; ``None``: directly.

        :raises CredentialUnusable: see `read`.
        :raises NoCredential: when there is none for a jump host, or they lead in a circle.
        """
        return self._way(host, port, user, MAX_HOPS)

    def read(self, rule: CredentialRule) -> Credential:
        """
        What the files of a rule hold now.

        :raises CredentialUnusable: naming the file and what is wrong with it.
        """
        certificate = rule.certificate_file
        if certificate is None and rule.key_file is not None and os.path.exists(f"{rule.key_file}-cert.pub"):
            certificate = f"{rule.key_file}-cert.pub"
        paths = (rule.key_file, rule.passphrase_file, certificate, rule.password_file)
        stamps = (*paths, *(None if path is None else _stamp(path) for path in paths))
        known = self._read.get(rule)
        if known is not None and known[0] == stamps and (in_use := known[1]()) is not None:
            return in_use
        self._read.pop(rule, None)
        credential = Credential(
            password=None if rule.password_file is None else _first_line(rule.password_file),
            private_key=None if rule.key_file is None else _read(rule.key_file, secret=True),
            passphrase=None if rule.passphrase_file is None else _first_line(rule.passphrase_file),
            certificate=None if certificate is None else _read(certificate, secret=False),
            agent=rule.agent,
        )
        self._read[rule] = stamps, ref(credential)
        return credential

    def target(self, host: str, port: int, user: str, host_key: str | None = None) -> Target | None:
        """
        Where and how to log in, jump hosts included.

        :param host_key: the fingerprint that the host's key must have, besides being good by the known hosts.
        :return: ``None`` where no rule covers the login.
        :raises CredentialUnusable: see `read`.
        :raises NoCredential: where one does, but a jump host of it has none, or they lead in a circle.
        """
        rule = self.find(host, port, user)
        if rule is None:
            return None
        via = self.way(host, port, user)
        return Target(
            host=canonical_host(host),
            port=port,
            username=user,
            credential=self.read(rule),
            host_key=host_key,
            via=via,
            site=True,
            looked_up=dialled_host(host),
        )

    def _way(self, host: str, port: int, user: str, hops_left: int) -> Target | None:
        hops = self.hops(host, port, user)
        if len(hops) > hops_left:
            raise NoCredential(host=host, port=port, username=user, reason=Text("its jump hosts lead in a circle"))
        via: Target | None = None
        for hop in hops:
            username = hop.username or user
            found = self.find(hop.host, hop.port, username)
            if found is None:
                reason = Text("it is a jump host, and no rule covers it")
                raise NoCredential(host=hop.host, port=hop.port, username=username, reason=reason)
            if via is None:  # the nearest one may itself be behind others; how to reach the next is said here
                via = self._way(hop.host, hop.port, username, hops_left - len(hops))
            credential = self.read(found)
            via = Target(
                hop.host, hop.port, username, credential, via=via, trusted=True, site=True, looked_up=hop.looked_up
            )
        return via


def _hops_before(rule: CredentialRule | None, host: str, port: int) -> tuple[Hop, ...]:
    hops = parse_via("" if rule is None else rule.via or "")
    places = [(hop.host, hop.port) for hop in hops]
    itself = (canonical_host(host), port)
    # A rule for a whole network often covers its jump host too.
    return hops[: places.index(itself)] if itself in places else hops


def parse_via(text: str) -> tuple[Hop, ...]:
    """
    Jump hosts as ``ssh -J`` takes them; an empty text is none.

    :raises ValueError: for what is none.
    """
    try:
        hops = [read_destination(part.strip()) for part in text.split(",")] if text else []
    except ValueError:
        raise ValueError("via is not of the form [user@]host[:port], with commas between several") from None
    return tuple(Hop(canonical_host(hop.host), hop.port, hop.username, dialled_host(hop.host)) for hop in hops)


def _check(rule: CredentialRule) -> None:
    if not rule.hosts or not rule.users:
        raise ValueError("it names no hosts or no users")
    for patterns, check in ((rule.hosts, check_host_pattern), (rule.users, check_user_pattern)):
        for pattern in patterns:
            try:
                check(pattern.removeprefix("!"))
            except ValueError as error:
                raise ValueError("expected {}, not {}".format(*error.args)) from None
    if not rule.has_credential and rule.via is None:
        raise ValueError("it has neither a key file nor a password file nor an agent nor jump hosts")
    if rule.passphrase_file and not rule.key_file:
        raise ValueError("it has a passphrase file without a key file")
    if rule.certificate_file and not (rule.key_file or rule.agent):
        raise ValueError("it has a certificate file without a key file or an agent")
    if rule.via is not None:
        parse_via(rule.via)


def _stamp(path: str) -> tuple[int, ...]:
    """What changes with a file, and with who may read it."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise CredentialUnusable(file=path, reason=_reason(error)) from None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev


def _read(path: str, *, secret: bool) -> str:
    try:
        # Not to be held up by what is no file, such as a pipe that nobody writes to.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _check_file(path, os.fstat(descriptor), secret=secret)
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(MAX_FILE + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise CredentialUnusable(file=path, reason=_reason(error)) from None
    if len(content) > MAX_FILE:
        raise CredentialUnusable(file=path, reason=Text("it is too large"))
    if not content.strip():
        raise CredentialUnusable(file=path, reason=Text("it is empty"))
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise CredentialUnusable(file=path, reason=Text("it is not text in UTF-8")) from None


def _check_file(path: str, status: os.stat_result, *, secret: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise CredentialUnusable(file=path, reason=Text("it is not a file"))
    if secret and is_open_to_others(status):
        mode = stat.S_IMODE(status.st_mode)
        raise CredentialUnusable(
            file=path, reason=Text("others may use it (mode {mode}); chmod it to 0600", mode=f"{mode:04o}")
        )


def _first_line(path: str) -> str:
    """A password or a passphrase; blanks around it belong to it, and further lines are a mistake."""
    first, *more = (line.removesuffix("\r") for line in _read(path, secret=True).removeprefix("\ufeff").split("\n"))
    if not first:
        raise CredentialUnusable(file=path, reason=Text("its first line is empty"))
    if "".join(more).strip():
        raise CredentialUnusable(file=path, reason=Text("it has more than one line"))
    return first


def _reason(error: OSError | ValueError) -> str:
    return words_of(error) if isinstance(error, OSError) else Text("there is no such file")
