"""
The site's own credentials: the hosts and users that each is for, and its files, which are read when it is used.

With them, a command needs to bring no secret.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from weakref import ref

from relayd.language.texts import Text
from relayd.network.credential_rules import CredentialRule, Hop, parse_via
from relayd.network.descriptors import words_of
from relayd.network.patterns import check_host_pattern, check_user_pattern, covers_host
from relayd.network.private_files import UnusableFile, fault_of_mode, read_file
from relayd.network.spelling import canonical_host, dialled_host
from relayd.ssh.errors import CredentialUnusable, NoCredential
from relayd.ssh.keys.mistaken import not_a_text
from relayd.ssh.target import Credential, Target

#: The largest file that is read, in bytes; a private key of 16,384 bits has some 13,000.
MAX_FILE = 256 * 1024
#: Most jump hosts on the way to a host; more of them are a loop in the table.
MAX_HOPS = 8


class CredentialTable:
    """
    The rules for all logins. As in ssh_config(5), the first rule with a credential that covers a login gives the
    credential, and the first rule with jump hosts gives the way.

    Files are read when they are used, and again when they have changed: a rotated key needs no restart. Their contents
    are kept as long as they are used, such as by a connection, and no longer.

    :raises ValueError: when a rule is not valid; says which and why.
    """

    def __init__(self, rules: Iterable[CredentialRule]) -> None:
        self._rules = tuple(rules)
        self._read: dict[CredentialRule, tuple[tuple[object, ...], ref[Credential]]] = {}
        for number, rule in enumerate(self._rules, start=1):
            try:
                _check(rule)
            except ValueError as reason:
                raise ValueError(f"credential {number}: {reason}") from None
        # Few sites have jump hosts, and each command asks for its way.
        self._hops = {rule: parse_via(rule.via) for rule in self._rules if rule.via is not None}

    @property
    def rules(self) -> tuple[CredentialRule, ...]:
        """All of them, in their order."""
        return self._rules

    @property
    def has_jump_hosts(self) -> bool:
        """Whether there is a host that the site reaches through others."""
        return bool(self._hops)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def find(self, host: str, port: int, user: str) -> CredentialRule | None:
        """The rule that has the credential for a login; ``None``: there is none."""
        return next((rule for rule in self._rules if rule.has_credential and rule.covers(host, port, user)), None)

    def hops(self, host: str, port: int, user: str) -> tuple[Hop, ...]:
        """The jump hosts that the rule for a host names, without those before them; empty: there are none."""
        hops = next((hops for rule, hops in self._hops.items() if rule.covers(host, port, user)), ())
        return _hops_before(hops, host, port)

    def is_direct(self, host: str, port: int, user: str) -> bool:
        """
        Whether the site's own way to a host is direct: for this user, or for any user if no rule is for this one.
        """
        if not self._hops:
            return True
        if any(rule.covers(host, port, user) for rule in self._rules):
            return not self.hops(host, port, user)
        rules = self._hops.items()
        return not any(_hops_before(hops, host, port) for rule, hops in rules if covers_host(rule.hosts, host, port))

    def way(self, host: str, port: int, user: str) -> Target | None:
        """
        The jump host before a host, which may have others before it; ``None``: the host is reached directly.

        :raises CredentialUnusable: see `read`.
        :raises NoCredential: when no rule is for a jump host, or the jump hosts lead in a circle.
        """
        return self._way(host, port, user, MAX_HOPS) if self._hops else None

    def read(self, rule: CredentialRule) -> Credential:
        """
        The credential in the files of a rule, as they are now.

        :raises CredentialUnusable: names the file, and what is wrong with it.
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
            password=None if rule.password_file is None else first_line(rule.password_file),
            private_key=None if rule.key_file is None else _read(rule.key_file, secret=True),
            passphrase=None if rule.passphrase_file is None else first_line(rule.passphrase_file),
            certificate=None if certificate is None else _read(certificate, secret=False),
            agent=rule.agent,
        )
        credential.key_file, credential.certificate_file = rule.key_file or "", certificate or ""
        self._read[rule] = stamps, ref(credential)
        return credential

    def target(self, host: str, port: int, user: str, host_key: str | None = None) -> Target | None:
        """
        The target of a login, jump hosts included; ``None``: no rule has a credential for it.

        :param host_key: the fingerprint that the host's key must have; the known hosts must accept the key, too.
        :raises CredentialUnusable: see `read`.
        :raises NoCredential: see `way`.
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
            if via is None:  # only the nearest one may be behind others: this rule says how to reach the next ones
                via = self._way(hop.host, hop.port, username, hops_left - len(hops))
            credential = self.read(found)
            via = Target(
                hop.host, hop.port, username, credential, via=via, trusted=True, site=True, looked_up=hop.looked_up
            )
        return via


def _hops_before(hops: tuple[Hop, ...], host: str, port: int) -> tuple[Hop, ...]:
    places = [(hop.host, hop.port) for hop in hops]
    itself = (canonical_host(host), port)
    # A rule for a whole network often covers its jump host, too.
    return hops[: places.index(itself)] if itself in places else hops


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
    """Numbers of which one changes with a file, or with its owner or mode."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise CredentialUnusable(file=path, reason=_reason(error)) from None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev


def _read(path: str, *, secret: bool) -> str:
    try:
        content = read_file(path, MAX_FILE, fault_of_mode if secret else None)
    except UnusableFile as fault:
        raise CredentialUnusable(file=path, reason=fault.text) from None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise CredentialUnusable(file=path, reason=not_a_text(content)) from None


def first_line(path: str) -> str:
    """The first line of a file, blanks included: a password or a passphrase. More lines are a mistake."""
    first, *more = (line.removesuffix("\r") for line in _read(path, secret=True).removeprefix("\ufeff").split("\n"))
    if not first:
        raise CredentialUnusable(file=path, reason=Text("its first line is empty"))
    if "".join(more).strip():
        raise CredentialUnusable(file=path, reason=Text("it has more than one line"))
    return first


def _reason(error: OSError | ValueError) -> str:
    return words_of(error) if isinstance(error, OSError) else Text("there is no such file")
