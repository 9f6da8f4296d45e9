"""
What a site sets: patterns of hosts, users and commands, held against hosts as main servers may spell them; the TOML
file, with its tables of credentials.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from typing import Any

from relayd.config import reading
from relayd.config.options import OPTIONS
from relayd.errors import ConfigError
from relayd.network.patterns import covers_host
from relayd.network.spelling import read_address, read_host
from relayd.policy.rules import Policy, command_pattern, host_patterns, user_patterns
from relayd.wire import fields
from tests.fuzz.engine import CANARY, Target, check, check_words, grow

#: The first byte: rules, then a host; an address; a TOML file, for a relay that is to run or not.
_RULES, _ADDRESS, _TOML, _COMPLETE = range(4)
_NEXT = b"\x1e"


def _run(data: bytes) -> None:
    if not data:
        return
    kind, data = data[0] % 4, grow(data[1:])
    if kind in (_TOML, _COMPLETE):
        _toml(data, kind == _COMPLETE)
        return
    text = data.decode("utf-8", "ignore")
    if kind == _RULES:
        _rules(*(text.split(_NEXT.decode()) + [""] * 4)[:4])
    else:
        _address(text)


def _host(text: str) -> str:
    """As `relayd.wire.parsing` lets it through; longer ones never come so far."""
    try:
        return fields.host("host", text)
    except fields.Invalid as error:
        check_words(error)
        return "web1"


def _rules(hosts: str, users: str, commands: str, spelt: str) -> None:
    parsed: list[Any] = []
    for parse, text in (
        (host_patterns, hosts[:2000]),
        (user_patterns, users[:2000]),
        (command_pattern, commands[:200]),
    ):
        try:
            parsed.append(parse(text))
        except ValueError as error:
            check(str(error.args[0]), "a refusal without words")
            parsed.append(None)
    host = _host(spelt)
    allow, deny = Policy(allow_hosts=parsed[0], allow_users=parsed[1]), Policy(deny_hosts=parsed[0])
    verdicts = (
        allow.judge_host(host, 22),
        deny.judge_host(host, 22),
        allow.judge_host(host, 22, behind=True),
        allow.judge_user(spelt[:255]),
    )
    for verdict in verdicts:
        check(verdict.allowed or verdict.reason, "a refusal without a reason")
    if parsed[0]:
        check(not (deny.judge_host(host, 22).allowed and covers_host(parsed[0], host, 22)), "what is denied is allowed")
    if parsed[2]:
        Policy(allow_commands=parsed[2], deny_commands=parsed[2]).judge_command(spelt)


def _address(text: str) -> None:
    host = _host(text)
    address, spelt = read_address(host), read_host(host)
    check(
        read_host(spelt.dialled) == spelt == read_host(host.upper() if host.isascii() and "%" not in host else host),
        "another spelling",
    )
    check(read_address(spelt.dialled) == address, "another address is dialled")
    found = _resolved(host)
    if found is not None:
        check(address is not None, "an address that passes for a name")
        check(str(_plain(found)) == str(address).partition("%")[0], "an address that is another to the resolver")
    if address is None:
        return
    check(read_address(str(address)) == address, "an address that is not its own")
    rule = str(address).partition("%")[0]
    check(not Policy(deny_hosts=host_patterns(rule)).judge_host(host, 22).allowed, "a spelling that passes a rule")
    check(
        Policy(deny_hosts=("10.0.0.0/8",)).judge_host(host, 22).allowed <= (not str(address).startswith("10.")),
        "a network",
    )


def _resolved(host: str) -> Any:
    """What getaddrinfo(3) makes of a host without asking anybody."""
    try:
        found = socket.getaddrinfo(host, 22, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError, ValueError):
        return None
    return ip_address(str(found[0][4][0]).partition("%")[0])


def _plain(address: Any) -> Any:
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or address
    return address


_folder = tempfile.mkdtemp(prefix="relayd-fuzz-site-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
atexit.register(shutil.rmtree, _folder, True)
_path = os.path.join(_folder, "relayd.toml")
for _name in ("key", "password"):
    with open(os.path.join(_folder, _name), "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as _file:
        _file.write("k" * 64)


def _toml(data: bytes, complete: bool) -> None:
    with open(_path, "wb") as file:
        file.write(data)
    try:
        reading.load({"config": _path}, {"HOME": _folder, "SSH_AUTH_SOCK": "/x"}, complete=complete)
    except ConfigError as error:
        check(len(str(error)) <= 100_000, "ever more words")
        if data.count(CANARY.encode()) == 1 and any(place in data for place in _PLACES):
            check(CANARY not in str(error), "a secret in the words of ConfigError")


#: Where somebody would put a secret, rightly or by mistake.
_PLACES = tuple(
    f'{before}{CANARY}"'.encode() for before in ('http-proxy = "http://u:', 'key-file = "', 'password-file = "')
)
_RELAY = 'server = "wss://main.example"\nproxy-id = "r"\napi-key-file = "key"\nstate-dir = "state"\n'
_TABLE = '[[credentials]]\nhosts = ["db-*", "!db-9", "[10.1.0.0]:2222", "10.2.0.0/16"]\nusers = ["a", "!b"]\n'


def _seeds() -> Iterator[bytes]:
    rules = ("10.1.0.0/16,!10.1.2.3,db-*,[web?]:22,fd00::/8", "deploy,app-*,!root", r"uptime|ls( -l)?", "10.1.2.3")
    for host in ("10.1.2.3", "db-1.example", "web1", "::ffff:10.1.2.3", "0x0a010203", "１０.1.2.3", "fe80::1%eth0"):
        yield bytes((_RULES,)) + _NEXT.join(part.encode() for part in (*rules[:3], host))
        yield bytes((_ADDRESS,)) + host.encode()
    for pattern in ("*.*.internal", "*-*-x", "169.254.*", "*:*"):
        yield bytes((_RULES,)) + _NEXT.join((pattern.encode(), b"*", b".*", b"169.254.169.254"))
    yield bytes((_RULES,)) + b"*-*-*-*-x" + _NEXT * 3 + b"-" + bytes((12, 0, 7, 0xFF))
    for address in (
        "167838211",
        "012.1.2.3",
        "10.258",
        "64:ff9b::10.1.2.3",
        "2002:a01:203::1",
        "::1",
        "[::1]",
        "10。1。2。3",
    ):
        yield bytes((_ADDRESS,)) + address.encode()
    options = "".join(
        f"{option.name} = {option.default!r}\n" for option in OPTIONS if option.default and option.name != "config"
    )
    for kind in (_TOML, _COMPLETE):
        yield bytes((kind,)) + _RELAY.encode()
        yield bytes((kind,)) + (_RELAY + options).encode()
        yield (
            bytes((kind,))
            + (_RELAY + f'http-proxy = "http://u:{CANARY}@proxy:3128"\nallow-hosts = ["a", "b/8"]\n').encode()
        )
        yield (
            bytes((kind,))
            + (_RELAY + _TABLE + 'key-file = "key"\nvia = "j@hop:2222,[fe80::1],z"\nagent = true\n').encode()
        )
        yield bytes((kind,)) + (_TABLE + f'key-file = "{CANARY}"\n').encode()
        yield bytes((kind,)) + (_TABLE + f'password-file = "{CANARY}"\n').encode()
        yield bytes((kind,)) + b"a = [[" + bytes((4, 0, 11, 0xFF))
        for number in (b"0x9", b"19"):
            yield bytes((kind,)) + b"max-commands = " + number + bytes((14 + len(number), 0, 14, 0xFF))
        for option in (b"state-dir", b"tls-ca", b"known-hosts", b"audit-log"):
            text = option + b' = "/x"\n' + _RELAY.replace("state-dir", "#").encode()
            yield bytes((kind,)) + text + bytes((len(option) + 5, 0, 9, 0xFF))


_WORDS = (
    *(option.name for option in OPTIONS),
    *("[[credentials]]", "hosts = [", "users = [", "key-file = ", "password-file = ", "via = ", "agent = true", '"""'),
    *("::ffff:", "64:ff9b::", "2002:", "169.254.169.254", "0x", "%eth0", "/8", "[", "]:22", "*", "?", "!", ","),
    *("。", "１", "ß", "xn--", "..", "\\u0000", "\\U0010ffff", "1979-05-27T07:32:00Z", "inf", "nan", "'''", "9" * 400),
    *("(a*)*", "(?i)", "\\pL", "{1000}", "[^a]", "~root/", "~", "@", "://", "\n", "= true\n"),
)

TARGETS = {"site": Target(_run, _seeds, tuple(word.encode() for word in _WORDS))}
with suppress(OSError):
    os.mkdir(os.path.join(_folder, "state"))
