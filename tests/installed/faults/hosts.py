"""
Faults of commands and hosts, and in what the relay has for these.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from relayd.wire.messages import Secret
from tests.installed.faults.fault import Fault, Make, options, run_once, write
from tests.installed.faults.machine import fill
from tests.installed.installation import ETC, LOGS, Installation
from tests.support.sshd import make_key


def row(key_file: Path, content: str, mode: int) -> Make:
    """A [[credentials]] table with a key that is written there."""

    async def make(relay: Installation) -> None:
        await write(key_file, content, mode)(relay)
        relay.set_options(f'[[credentials]]\nhosts = ["127.0.0.1"]\nusers = ["*"]\nkey-file = "{key_file}"\n')

    return make


async def _full_audit(relay: Installation) -> None:
    relay.set_options(audit_log='"/var/log/relayd/audit.log"')
    await run_once(relay)
    await fill(LOGS)


async def _new_host_key(relay: Installation) -> None:
    await run_once(relay)
    relay.host.make_host_keys()
    await relay.host.restart()


def _encrypted(relay: Installation) -> Secret:
    path = ETC / "encrypted"
    if not path.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "right", "-f", str(path)], check=True)
    return Secret(path.read_text())


HOSTS = (
    Fault(
        what="--allow-hosts without the host",
        cure="--allow-hosts",
        make=options(allow_hosts='["10.1.0.0/16"]'),
        command={},
        answer="site forbids 127.0.0.1.*--allow-hosts",
        sound=True,
    ),
    Fault(
        what="a host whose key has changed",
        cure="If the host really has a new key, remove line 1 of",
        make=_new_host_key,
        command={},
        answer="known_hosts",
        sound=True,
    ),
    Fault(
        what="--host-keys strict without known hosts",
        cure="check the fingerprint at the host, and add its key to|use accept-new",
        make=options(host_keys='"strict"'),
        command={},
        answer="known_hosts|--known-hosts",
        check="warning .*--host-keys strict refuses every host",
        sound=True,
    ),
    Fault(
        what="a host where nothing listens",
        cure="Check the port, and that an SSH server runs there",
        command={"port": 9},
        answer="127.0.0.1:9 .*refused",
        sound=True,
    ),
    Fault(
        what="a host without a route",
        cure="Check the address, and the network",
        command={"host": "10.9.8.7"},
        answer="10.9.8.7.*unreachable",
        sound=True,
    ),
    Fault(
        what="a host without a name",
        cure="Check its spelling, and the name servers",
        command={"host": "db-1.internal"},
        answer="db-1.internal",
        sound=True,
    ),
    Fault(
        what="a wrong password",
        cure="Check the user name and the password",
        command={"password": Secret("wrong")},
        answer="refused|rejected|password",
        sound=True,
    ),
    Fault(
        what="the port of the main server as that of a host",
        cure="Check the port",
        command={"port": lambda relay: relay.server.ports["good"]},
        answer="TLS|no SSH|not SSH",
        sound=True,
    ),
    Fault(
        what="a public key",
        cure="Check that it is the whole text of a private key",
        command={"password": None, "private_key": lambda relay: Secret(make_key()[1])},
        answer="public key",
        sound=True,
    ),
    Fault(
        what="a wrong passphrase",
        cure="Check .*its passphrase",
        command={"password": None, "private_key": _encrypted, "passphrase": Secret("wrong")},
        answer="passphrase",
        sound=True,
    ),
    Fault(
        what="no passphrase",
        cure="Check .*its passphrase",
        command={"password": None, "private_key": _encrypted},
        answer="passphrase",
        sound=True,
    ),
    Fault(
        what="a key below /home",
        cure="let systemd pass it on|put LoadCredential=NAME:/home/ops/id into a drop-in",
        make=row(Path("/home/ops/id"), make_key()[0], 0o600),
        log="key-file of .*ProtectHome= .*let systemd pass it on",
        check="fault .*ProtectHome=yes hides /home/ops/id .*LoadCredential=NAME:/home/ops/id",
    ),
    Fault(
        what="a host's key file for root alone",
        cure="let systemd pass it on|put LoadCredential=NAME:/etc/relayd/k into a drop-in",
        make=row(ETC / "k", make_key()[0], 0o600),
        log="key-file of .*this user cannot read the file; let systemd pass it on",
        check="fault .*cannot read /etc/relayd/k: put LoadCredential=NAME:/etc/relayd/k",
    ),
    Fault(
        what="an audit log where the unit may not write",
        cure="put ReadWritePaths=|its directory has to be there",
        make=options(audit_log='"/var/log/audit/relayd.log"'),
        log="--audit-log",
        check="fault .*--audit-log|fault .*audit log",
    ),
    Fault(
        what="a full disk below the audit log",
        cure="make room",
        make=_full_audit,
        log="audit log .*No space left on device|--audit-log.*No space left",
        check="fault .*audit log .*No space left on device; make room",
    ),
)
