"""
What an operator gets wrong in an installed relayd, one fault after the other; and the words by which the relay's log,
``relayctl check`` or the answer to a command name it, with what to do about it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from msgspec import Struct
from twisted.internet import reactor
from twisted.internet.task import deferLater

from relayd.wire.messages import Secret
from tests.installed.installation import (
    API_KEY,
    ETC,
    LOGS,
    MAIN_SERVER,
    PROXY_ID,
    STATE,
    UNIT,
    Installation,
    run,
    until,
)
from tests.support.sshd import make_key

Make = Callable[[Installation], Awaitable[None]]
KEY = ETC / "api-key"


class Fault(Struct, frozen=True, kw_only=True):
    """
    One fault.

    :ivar what: what the operator did.
    :ivar make: does it, in an installation that works and whose relay does not run.
    :ivar log: finds the line in the relay's log, or in what systemd logs about its unit, once the relay was started.
    :ivar check: finds the line of ``relayctl check``.
    :ivar command: the fields of a command that is sent then; a function is given the installation.
    :ivar answer: finds its answer.
    :ivar sound: whether the relay is accepted nevertheless.
    """

    what: str
    make: Make | None = None
    log: str = ""
    check: str = ""
    command: dict[str, Any] | None = None
    answer: str = ""
    sound: bool = False


def options(extra: str = "", **values: str | None) -> Make:
    """Set options, which may have ``{PORT}`` for a port of the main server in them; see `Installation.set_options`."""

    async def make(relay: Installation) -> None:
        ports = {**relay.server.ports, "ssh": relay.host.port}

        def filled(text: str | None) -> str | None:
            for kind, port in ports.items():
                text = None if text is None else text.replace(f"{{{kind}}}", str(port))
            return text

        relay.set_options(extra, **{name: filled(value) for name, value in values.items()})

    return make


def server(url: str, **values: str | None) -> Make:
    """Set --server; ``HOST`` in it is the main server's name."""
    return options(server=f'"{url.replace("HOST", MAIN_SERVER)}"', **values)


def write(path: Path, content: str | bytes, mode: int | None = None) -> Make:
    """Write a file."""

    async def make(relay: Installation) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        if mode is not None:
            path.chmod(mode)

    return make


def for_root_alone(path: Path) -> Make:
    """Take a file from all others."""

    async def make(relay: Installation) -> None:
        path.chmod(0o600)

    return make


def drop_in(text: str) -> Make:
    """Put lines into a drop-in of the unit."""
    return lambda relay: relay.drop_in(f"[Service]\n{text}\n")


def row(key_file: Path, content: str, mode: int) -> Make:
    """A [[credentials]] table with a key that is written there."""

    async def make(relay: Installation) -> None:
        await write(key_file, content, mode)(relay)
        relay.set_options(f'[[credentials]]\nhosts = ["127.0.0.1"]\nusers = ["*"]\nkey-file = "{key_file}"\n')

    return make


async def _no_key(relay: Installation) -> None:
    KEY.unlink()


async def _no_authority(relay: Installation) -> None:
    (ETC / "ca.pem").unlink()


async def _no_file(relay: Installation) -> None:
    (ETC / "relayd.toml").unlink()


async def _once(relay: Installation) -> None:
    """Let the relay run once, so that it has a state, and knows the host."""
    await relay.start()
    await relay.execute()
    await run("systemctl", "stop", UNIT, check=True)


async def _full(folder: Path) -> None:
    """A disk of its own without any room."""
    owner = folder.stat()
    await run("mount", "-t", "tmpfs", "-o", "size=64k,mode=750", "tmpfs", str(folder), check=True)
    subprocess.run(f"head -c 1M /dev/zero >{folder}/fill", shell=True, capture_output=True, check=False)
    for path in (folder, folder / "fill"):
        os.chown(path, owner.st_uid, owner.st_gid)


async def _full_state(relay: Installation) -> None:
    await _once(relay)
    await _full(STATE)


async def _full_audit(relay: Installation) -> None:
    relay.set_options(audit_log='"/var/log/relayd/audit.log"')
    await _once(relay)
    await _full(LOGS)


async def _damaged(relay: Installation) -> None:
    await _once(relay)
    for path in (STATE / "journal").iterdir():
        content = bytearray(path.read_bytes())
        content[:200] = b"\xff" * min(200, len(content))
        path.write_bytes(content)


async def _foreign(relay: Installation) -> None:
    await _once(relay)
    for path in [*STATE.rglob("*")]:
        os.chown(path, 0, 0)


async def _by_hand(relay: Installation) -> None:
    await _once(relay)
    words = ["/opt/relayd/bin/twistd", "-n", "--pidfile=", "relayd", "--config", str(ETC / "relayd.toml")]
    words += ["--api-key-file", str(KEY), "--state-dir", "/var/lib/relayd", "--status", "unix:/run/by-hand"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    relay.on_repair(lambda: (process.kill(), process.wait()))
    await until(lambda: PROXY_ID in relay.server.hub.relays)


async def _namesake(relay: Installation) -> None:
    text = (ETC / "relayd.toml").read_text().replace("/run/relayd/", "/run/relayd-two/")
    (ETC / "two.toml").write_text(text)
    shutil.copy(KEY, ETC / "two.api-key")
    await run("systemctl", "start", "relayd@two", check=True)
    relay.on_repair(lambda: subprocess.run(["systemctl", "stop", "relayd@two"], check=False))


async def _taken(relay: Installation) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    relay.on_repair(listening.close)
    relay.set_options(status=f'"tcp:127.0.0.1:{listening.getsockname()[1]}"')


async def _new_host_key(relay: Installation) -> None:
    await _once(relay)
    relay.host.make_host_keys()
    await relay.host.restart()


async def _reload_broken(relay: Installation) -> None:
    await relay.start()
    relay.set_options("max-commands == 3")
    done = await run("systemctl", "reload", UNIT)
    assert done.code, done
    await deferLater(reactor, 0.1)


def _encrypted(relay: Installation) -> Secret:
    path = ETC / "encrypted"
    if not path.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "right", "-f", str(path)], check=True)
    return Secret(path.read_text())


def clock(when: str) -> Make:
    """Another time of day in the relay."""
    [library] = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return drop_in(f'Environment=LD_PRELOAD={library} "FAKETIME={when}"')


_TABLE = '[[{}]]\nhosts = ["*"]\nusers = ["*"]\nkey-file = "/etc/relayd/k"\n'

KEYS = (
    Fault(
        what="no key file",
        make=_no_key,
        log="API key cannot be used: .* put it into /etc/relayd/api-key, .*LoadCredential=api-key",
        check="fault .*put it into /etc/relayd/api-key",
    ),
    Fault(
        what="an empty key file",
        make=write(KEY, ""),
        log="its file is empty; put it into /etc/relayd/api-key",
        check="fault .*its file is empty; put it into /etc/relayd/api-key",
    ),
    Fault(
        what="a comment above the key",
        make=write(KEY, f"# the key\n{API_KEY}\n"),
        log="must hold exactly one line, .*/etc/relayd/api-key",
        check="fault .*must hold exactly one line",
    ),
    Fault(
        what="a key saved as UTF-16 by an editor",
        make=write(KEY, API_KEY.encode("utf-16")),
        log="its file is not UTF-8 text; .*/etc/relayd/api-key",
        check="fault .*its file is not UTF-8 text",
    ),
    Fault(
        what="a key that is too short",
        make=write(KEY, "short\n"),
        log="shorter than 32 characters; make a longer one, or use --allow-weak-key",
        check="fault .*shorter than 32 characters; make a longer one",
    ),
    Fault(
        what="a key that all may read",
        make=write(KEY, API_KEY, 0o644),
        check="warning .*other users can read /etc/relayd/api-key: chmod 600 it",
        sound=True,
    ),
    Fault(what="a key from Windows, with CRLF", make=write(KEY, f"{API_KEY}\r\n"), check="no faults", sound=True),
    Fault(
        what="a key with a byte order mark",
        make=write(KEY, f"\ufeff{API_KEY}\n"),
        check="no faults",
        sound=True,
    ),
    Fault(
        what="the path of the key in relayd.toml",
        make=options(api_key_file='"/etc/relayd/api-key"'),
        log=r"Permission denied.*systemd passes it on.* give \$CREDENTIALS_DIRECTORY/api-key, or leave the option out",
        check="fault .*--api-key-file: the user of relayd.service cannot read .*leave the option out",
    ),
    Fault(
        what="another key than the main server has",
        make=write(KEY, "x" * 40),
        log="refused this relay .*wrong proxyId or apiKey: compare",
        check="fault .*refused this relay .*compare --proxy-id and the file of --api-key-file",
    ),
    Fault(
        what="another name than the main server has",
        make=options(proxy_id='"site-2"'),
        log="refused this relay .*wrong proxyId or apiKey: compare",
        check="fault .*refused this relay .*compare --proxy-id",
    ),
)

SETTINGS = (
    Fault(
        what="no server",
        make=options(server=None),
        log="--server: missing; give --server URL",
        check="fault .*--server: missing",
    ),
    Fault(
        what="a URL without a scheme",
        make=server("HOST:{good}"),
        log="relayd.toml: expected a URL like wss://HOST",
        check="fault .*expected a URL like wss://HOST",
    ),
    Fault(
        what="a mistyped scheme",
        make=server("htps://HOST:{good}"),
        log="relayd.toml: expected a URL like wss://HOST",
        check="fault .*expected a URL like wss://HOST",
    ),
    Fault(
        what="no encryption",
        make=server("ws://main.example.org"),
        log="would send the API key and all passwords unencrypted; use wss://",
        check="fault .*unencrypted; use wss://",
    ),
    Fault(
        what="a mistake in the TOML",
        make=options("max-commands == 3"),
        log=r"not valid TOML: .*at line \d+",
        check=r"fault .*not valid TOML: .*at line \d+",
    ),
    Fault(
        what="a text without quotes",
        make=options(server="wss://main.example.org"),
        log=r"at line \d+, .*put texts in quotes",
        check="fault .*put texts in quotes",
    ),
    Fault(
        what="an option that is set twice",
        make=options('proxy-id = "b"'),
        log=r"at line \d+, .*set twice: remove one",
        check="fault .*set twice: remove one",
    ),
    Fault(
        what="a mistyped option",
        make=options(max_comands="3"),
        log="max-comands in /etc/relayd/relayd.toml: no such option; did you mean max-commands",
        check="fault .*did you mean max-commands",
    ),
    Fault(
        what="a value out of range",
        make=options(max_commands="0"),
        log='max-commands in /etc/relayd/relayd.toml: expected a whole number from 1 to .*, not "0"',
        check="fault .*expected a whole number from 1 to",
    ),
    Fault(
        what="a value of another type",
        make=options(idle_timeout='"5 minutes"'),
        log='expected a time from .*, like 5s, 2m or 1h, not "5 minutes"',
        check="fault .*expected a time from",
    ),
    Fault(
        what="a mistyped table",
        make=options(_TABLE.format("credential")),
        log="credential in /etc/relayd/relayd.toml: .*did you mean credentials",
        check="fault .*did you mean credentials",
    ),
    Fault(
        what="an option below a table",
        make=options(_TABLE.format("credentials") + "max-commands = 5\n"),
        log=r"is an option; move it above the first \[\[credentials\]\]",
        check="fault .*move it above the first",
    ),
    Fault(
        what="no relayd.toml",
        make=_no_file,
        log="/etc/relayd/relayd.toml cannot be read: No such file or directory; write it, or name another",
        check="fault .*/etc/relayd/relayd.toml cannot be read: No such file",
    ),
    Fault(
        what="a relayd.toml for root alone",
        make=for_root_alone(ETC / "relayd.toml"),
        log="relayd.toml cannot be read: Permission denied; relayd's user has to read it: chmod 644 it",
        check="fault .*--config: the user of relayd.service cannot read",
    ),
    Fault(
        what="a mistyped variable",
        make=write(Path("/etc/default/relayd"), "RELAYD_MAX_COMMAND=3\n"),
        log="RELAYD_MAX_COMMAND .*did you mean RELAYD_MAX_COMMANDS",
        check="fault .*RELAYD_MAX_COMMAND in /etc/default/relayd: .*did you mean",
    ),
    Fault(
        what="a pattern that is none",
        make=options(allow_commands='"systemctl ("'),
        log="allow-commands in /etc/relayd/relayd.toml: ",
        check="fault .*allow-commands in",
    ),
    Fault(what="a broken file at a reload", make=_reload_broken, log=r"not valid TOML: .*at line \d+", sound=True),
)

UPLINK = (
    Fault(
        what="ws:// at a TLS port",
        make=server("ws://HOST:{good}", allow_plaintext="true"),
        log="closed the connection without an answer, as a TLS port does; .*use wss://",
        check="fault .*as a TLS port does; .*use wss://",
    ),
    Fault(
        what="wss:// at the port of an SSH server",
        make=server("wss://HOST:{ssh}"),
        log="look at .*--server",
        check="fault .*look at .*--server",
    ),
    Fault(
        what="a port where nothing listens",
        make=server("wss://HOST:9"),
        log="connection refused; nothing listens there.*look at the port in --server",
        check="fault .*look at the port in --server",
    ),
    Fault(
        what="a mistyped name",
        make=server("wss://mian.example.test"),
        log="its name was not found; look at --server",
        check="fault .*mian.example.test cannot be looked up .*check --server",
    ),
    Fault(
        what="an address without a route",
        make=server("wss://10.9.8.7"),
        log="Network is unreachable; look at --server and at the routes",
        check="fault .*look at --server and at the routes",
    ),
    Fault(
        what="a path that the main server has not",
        make=server("wss://HOST:{good}/wrong"),
        log="neither dialect.*/wrong/socket.io/: HTTP 404",
        check="fault .*/wrong/socket.io/: HTTP 404",
    ),
    Fault(
        what="a certificate that has expired",
        make=server("wss://HOST:{expired}"),
        log="has expired: it is valid from .*replace the certificate; if not, set the clock",
        check="fault .*has expired: .*replace the certificate",
    ),
    Fault(
        what="a certificate that signs itself",
        make=server("wss://HOST:{self-signed}"),
        log="is self-signed, .*add it to that file",
        check="fault .*is self-signed, .*add it to that file",
    ),
    Fault(
        what="a certificate for another name",
        make=server("wss://HOST:{other-name}"),
        log="it names other.example.test, not main.example.test; write a name that it has in --server",
        check="fault .*write a name that it has in --server",
    ),
    Fault(
        what="a clock that is years behind",
        make=clock("2020-01-01 12:00:00"),
        log="is not yet valid: .*the clock of this machine says 2020-01-01.*set the clock",
    ),
    Fault(
        what="an authority of one's own that is not named",
        make=options(tls_ca=None),
        log="not among the authorities of this machine.*name a file with its certificate in --tls-ca",
        check="fault .*name a file with its certificate in --tls-ca",
    ),
    Fault(
        what="no file of authorities",
        make=_no_authority,
        log="tls-ca in /etc/relayd/relayd.toml: there is no file /etc/relayd/ca.pem",
        check="fault .*there is no file /etc/relayd/ca.pem",
    ),
    Fault(
        what="a file of authorities that is no PEM",
        make=write(ETC / "ca.pem", "hello\n"),
        log="ca.pem holds no PEM certificate; it must have -----BEGIN CERTIFICATE-----",
        check="fault .*holds no PEM certificate; it must have",
    ),
    Fault(
        what="a file of authorities for root alone",
        make=for_root_alone(ETC / "ca.pem"),
        log="ca.pem cannot be read: Permission denied; relayd's user has to read it",
        check="fault .*--tls-ca: the user of relayd.service cannot read /etc/relayd/ca.pem: chmod a",
    ),
    Fault(
        what="a proxy where nothing listens",
        make=options(http_proxy='"http://127.0.0.1:9"'),
        log="the HTTP proxy http://127.0.0.1:9 cannot be reached: .*look at the port in --http-proxy",
        check="fault .*look at the port in --http-proxy",
    ),
    Fault(
        what="a proxy that is none",
        make=options(http_proxy='"http://127.0.0.1:{ssh}"'),
        log="opens no tunnel .*look at --http-proxy",
        check="fault .*opens no tunnel .*look at --http-proxy",
    ),
)

MACHINE = (
    Fault(
        what="a state directory where the unit may not write",
        make=options(state_dir='"/srv/relayd"'),
        log="/srv/relayd cannot be used: .*under systemd, leave --state-dir out",
        check="fault .*--state-dir: ProtectSystem=strict .*/srv.*ReadWritePaths",
    ),
    Fault(
        what="a full disk below the state directory",
        make=_full_state,
        log="No space left on device; make room",
        check="fault .*cannot write to /var/lib/relayd: No space left on device; make room",
    ),
    Fault(
        what="a damaged journal",
        make=_damaged,
        log="The journal was damaged. It is kept as /var/lib/relayd/journal",
        check="warning .*journal .*damaged once; see relayctl journal",
    ),
    Fault(
        what="a state directory with files of root",
        make=_foreign,
        log="Permission denied; another user may own it: chown -R --reference=",
        check="fault .*another user .*chown -R --reference=",
    ),
    Fault(
        what="another relay in the same state directory, by hand",
        make=_by_hand,
        log=r"in use by another relayd \(process \d+\); give each relay a directory of its own",
        check=r"fault .*process \d+ uses it, not relayd.service, which cannot run beside it: end one of the two",
    ),
    Fault(
        what="another relay with the same name",
        make=_namesake,
        log="another relay may use the same name: give each relay its own --proxy-id",
        check="warning .*another relay may use the same name",
        sound=True,
    ),
    Fault(
        what="a status port that is in use",
        make=_taken,
        log="--status: cannot listen at tcp:.*: Address already in use; give another address",
        check="fault .*--status",
    ),
    Fault(
        what="a status socket where the unit may not write",
        make=options(status='"unix:/run/status.sock"'),
        log="--status: cannot listen at unix:/run/status.sock: .*such as /run/relayd",
        check="fault .*--status: .*/run",
    ),
    Fault(
        what="few descriptors",
        make=drop_in("LimitNOFILE=64"),
        log="may open only 64 files, .*Raise LimitNOFILE= in its unit",
        sound=True,
    ),
    Fault(
        what="a user that does not exist",
        make=drop_in("DynamicUser=no\nUser=relay"),
        log="Failed to determine user credentials: No such process",
        check="fault .*there is no user relay, whom User=relay names: create it",
    ),
    Fault(
        what="a credential of another name",
        make=drop_in("LoadCredential=\nLoadCredential=apikey:/etc/relayd/api-key"),
        log="API key",
    ),
)

HOSTS = (
    Fault(
        what="--allow-hosts without the host",
        make=options(allow_hosts='["10.1.0.0/16"]'),
        command={},
        answer="site forbids 127.0.0.1.*--allow-hosts",
        sound=True,
    ),
    Fault(
        what="a host whose key has changed",
        make=_new_host_key,
        command={},
        answer="known_hosts",
        sound=True,
    ),
    Fault(
        what="--host-keys strict without known hosts",
        make=options(host_keys='"strict"'),
        command={},
        answer="known_hosts|--known-hosts",
        check="warning .*--host-keys strict refuses every host",
        sound=True,
    ),
    Fault(
        what="a host where nothing listens",
        command={"port": 9},
        answer="127.0.0.1:9 .*refused",
        sound=True,
    ),
    Fault(what="a host without a route", command={"host": "10.9.8.7"}, answer="10.9.8.7.*unreachable", sound=True),
    Fault(what="a host without a name", command={"host": "db-1.internal"}, answer="db-1.internal", sound=True),
    Fault(
        what="a wrong password",
        command={"password": Secret("wrong")},
        answer="refused|rejected|password",
        sound=True,
    ),
    Fault(
        what="the port of the main server as that of a host",
        command={"port": lambda relay: relay.server.ports["good"]},
        answer="TLS|no SSH|not SSH",
        sound=True,
    ),
    Fault(
        what="a public key",
        command={"password": None, "private_key": lambda relay: Secret(make_key()[1])},
        answer="public key",
        sound=True,
    ),
    Fault(
        what="a wrong passphrase",
        command={"password": None, "private_key": _encrypted, "passphrase": Secret("wrong")},
        answer="passphrase",
        sound=True,
    ),
    Fault(
        what="no passphrase",
        command={"password": None, "private_key": _encrypted},
        answer="passphrase",
        sound=True,
    ),
    Fault(
        what="a key below /home",
        make=row(Path("/home/ops/id"), make_key()[0], 0o600),
        log="key-file of .*ProtectHome= .*let systemd pass it on",
        check="fault .*ProtectHome=yes hides /home/ops/id .*LoadCredential=NAME:/home/ops/id",
    ),
    Fault(
        what="a host's key file for root alone",
        make=row(ETC / "k", make_key()[0], 0o600),
        log="key-file of .*this user cannot read the file; let systemd pass it on",
        check="fault .*cannot read /etc/relayd/k: put LoadCredential=NAME:/etc/relayd/k",
    ),
    Fault(
        what="an audit log where the unit may not write",
        make=options(audit_log='"/var/log/audit/relayd.log"'),
        log="--audit-log",
        check="fault .*--audit-log|fault .*audit log",
    ),
    Fault(
        what="a full disk below the audit log",
        make=_full_audit,
        log="audit log .*No space left on device|--audit-log.*No space left",
        check="fault .*audit log .*No space left on device; make room",
    ),
)
