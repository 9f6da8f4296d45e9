"""
Faults in the file of the API key, and in relayd.toml and what stands beside it.
"""

from __future__ import annotations

from pathlib import Path

from twisted.internet import reactor
from twisted.internet.task import deferLater

from tests.installed.faults.fault import KEY, NO_FAULTS, Fault, for_root_alone, options, server, write
from tests.installed.installation import API_KEY, ETC, UNIT, Installation, run


async def _no_key(relay: Installation) -> None:
    KEY.unlink()


async def _no_file(relay: Installation) -> None:
    (ETC / "relayd.toml").unlink()


async def _reload_broken(relay: Installation) -> None:
    await relay.start()
    relay.set_options("max-commands == 3")
    done = await run("systemctl", "reload", UNIT)
    assert done.code, done
    await deferLater(reactor, 0.1)


_TABLE = '[[{}]]\nhosts = ["*"]\nusers = ["*"]\nkey-file = "/etc/relayd/k"\n'

KEYS = (
    Fault(
        what="no key file",
        cure="put it into /etc/relayd/api-key",
        make=_no_key,
        log="API key cannot be used: .* put it into /etc/relayd/api-key, .*LoadCredential=api-key",
        check="fault .*put it into /etc/relayd/api-key",
    ),
    Fault(
        what="an empty key file",
        cure="put it into /etc/relayd/api-key",
        make=write(KEY, ""),
        log="its file is empty; put it into /etc/relayd/api-key",
        check="fault .*its file is empty; put it into /etc/relayd/api-key",
    ),
    Fault(
        what="a comment above the key",
        cure="must hold exactly one line",
        make=write(KEY, f"# the key\n{API_KEY}\n"),
        log="must hold exactly one line, .*/etc/relayd/api-key",
        check="fault .*must hold exactly one line",
    ),
    Fault(
        what="a key saved as UTF-16 by an editor",
        cure="save it as UTF-8",
        make=write(KEY, API_KEY.encode("utf-16")),
        log="its file is not UTF-8 text; .*/etc/relayd/api-key",
        check="fault .*its file is not UTF-8 text",
    ),
    Fault(
        what="a key that is too short",
        cure="make a longer one",
        make=write(KEY, "short\n"),
        log="shorter than 32 characters; make a longer one, or use --allow-weak-key",
        check="fault .*shorter than 32 characters; make a longer one",
    ),
    Fault(
        what="a key that all may read",
        cure="chmod 600 it",
        make=write(KEY, API_KEY, 0o644),
        check="warning .*other users can read /etc/relayd/api-key: chmod 600 it",
        sound=True,
    ),
    Fault(what="a key from Windows, with CRLF", make=write(KEY, f"{API_KEY}\r\n"), check=NO_FAULTS, sound=True),
    Fault(
        what="a key with a byte order mark",
        make=write(KEY, f"\ufeff{API_KEY}\n"),
        check=NO_FAULTS,
        sound=True,
    ),
    Fault(
        what="the path of the key in relayd.toml",
        cure="leave the option out",
        make=options(api_key_file='"/etc/relayd/api-key"'),
        log=r"Permission denied.*systemd passes it on.* give \$CREDENTIALS_DIRECTORY/api-key, or leave the option out",
        check="fault .*--api-key-file: the user of relayd.service cannot read .*leave the option out",
    ),
    Fault(
        what="another key than the main server has",
        cure="compare --proxy-id and the file of --api-key-file",
        make=write(KEY, "x" * 40),
        log="refused this relay .*wrong proxyId or apiKey: compare",
        check="fault .*refused this relay .*compare --proxy-id and the file of --api-key-file",
    ),
    Fault(
        what="another name than the main server has",
        cure="compare --proxy-id and the file of --api-key-file",
        make=options(proxy_id='"site-2"'),
        log="refused this relay .*wrong proxyId or apiKey: compare",
        check="fault .*refused this relay .*compare --proxy-id",
    ),
)

SETTINGS = (
    Fault(
        what="no server",
        cure="give --server URL",
        make=options(server=None),
        log="--server: missing; give --server URL",
        check="fault .*--server: missing",
    ),
    Fault(
        what="a URL without a scheme",
        cure="expected a URL like wss://HOST",
        make=server("HOST:{good}"),
        log="relayd.toml: expected a URL like wss://HOST",
        check="fault .*expected a URL like wss://HOST",
    ),
    Fault(
        what="a mistyped scheme",
        cure="expected a URL like wss://HOST",
        make=server("htps://HOST:{good}"),
        log="relayd.toml: expected a URL like wss://HOST",
        check="fault .*expected a URL like wss://HOST",
    ),
    Fault(
        what="no encryption",
        cure="use wss://",
        make=server("ws://main.example.org"),
        log="would send the API key and all passwords unencrypted; use wss://",
        check="fault .*unencrypted; use wss://",
    ),
    Fault(
        what="a mistake in the TOML",
        cure="correct that line|put texts in quotes",
        make=options("max-commands == 3"),
        log=r"not valid TOML: .*at line \d+",
        check=r"fault .*not valid TOML: .*at line \d+",
    ),
    Fault(
        what="a text without quotes",
        cure="put texts in quotes",
        make=options(server="wss://main.example.org"),
        log=r"at line \d+, .*put texts in quotes",
        check="fault .*put texts in quotes",
    ),
    Fault(
        what="an option that is set twice",
        cure="remove one of the two",
        make=options('proxy-id = "b"'),
        log=r"at line \d+, .*set twice: remove one",
        check="fault .*set twice: remove one",
    ),
    Fault(
        what="a mistyped option",
        cure="did you mean max-commands",
        make=options(max_comands="3"),
        log="max-comands in /etc/relayd/relayd.toml: no such option; did you mean max-commands",
        check="fault .*did you mean max-commands",
    ),
    Fault(
        what="a value out of range",
        cure="expected a whole number from 1 to [0-9]+",
        make=options(max_commands="0"),
        log='max-commands in /etc/relayd/relayd.toml: expected a whole number from 1 to .*, not "0"',
        check="fault .*expected a whole number from 1 to",
    ),
    Fault(
        what="a value of another type",
        cure="like 5s, 2m or 1h",
        make=options(idle_timeout='"5 minutes"'),
        log='expected a time from .*, like 5s, 2m or 1h, not "5 minutes"',
        check="fault .*expected a time from",
    ),
    Fault(
        what="a mistyped table",
        cure="did you mean credentials",
        make=options(_TABLE.format("credential")),
        log="credential in /etc/relayd/relayd.toml: .*did you mean credentials",
        check="fault .*did you mean credentials",
    ),
    Fault(
        what="an option below a table",
        cure="move it above the first",
        make=options(_TABLE.format("credentials") + "max-commands = 5\n"),
        log=r"is an option; move it above the first \[\[credentials\]\]",
        check="fault .*move it above the first",
    ),
    Fault(
        what="no relayd.toml",
        cure="write it, or name another",
        make=_no_file,
        log="/etc/relayd/relayd.toml cannot be read: No such file or directory; write it, or name another",
        check="fault .*/etc/relayd/relayd.toml cannot be read: No such file",
    ),
    Fault(
        what="a relayd.toml for root alone",
        cure=r"chmod (644|a\+r) it",
        make=for_root_alone(ETC / "relayd.toml"),
        log="relayd.toml cannot be read: Permission denied; relayd's user has to read it: chmod 644 it",
        check="fault .*--config: the user of relayd.service cannot read",
    ),
    Fault(
        what="a mistyped variable",
        cure="did you mean RELAYD_MAX_COMMANDS",
        make=write(Path("/etc/default/relayd"), "RELAYD_MAX_COMMAND=3\n"),
        log="RELAYD_MAX_COMMAND .*did you mean RELAYD_MAX_COMMANDS",
        check="fault .*RELAYD_MAX_COMMAND in /etc/default/relayd: .*did you mean",
    ),
    Fault(
        what="a pattern that is none",
        cure="expected a regular expression of RE2",
        make=options(allow_commands='"systemctl ("'),
        log="allow-commands in /etc/relayd/relayd.toml: ",
        check="fault .*allow-commands in",
    ),
    Fault(
        what="a broken file at a reload",
        cure="correct that line|put texts in quotes",
        make=_reload_broken,
        log=r"not valid TOML: .*at line \d+",
        sound=True,
    ),
)
