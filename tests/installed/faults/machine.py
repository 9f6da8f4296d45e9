"""
Faults of the machine: its disks, its users, its unit, and what else runs on it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

from tests.installed.faults.fault import KEY, Fault, drop_in, options, run_once
from tests.installed.installation import ETC, PROXY_ID, STATE, Installation, run, until


async def fill(folder: Path) -> None:
    """A disk of its own without any room."""
    owner = folder.stat()
    await run("mount", "-t", "tmpfs", "-o", "size=64k,mode=750", "tmpfs", str(folder), check=True)
    subprocess.run(f"head -c 1M /dev/zero >{folder}/fill", shell=True, capture_output=True, check=False)
    for path in (folder, folder / "fill"):
        os.chown(path, owner.st_uid, owner.st_gid)


async def _full_state(relay: Installation) -> None:
    await run_once(relay)
    await fill(STATE)


async def _damaged(relay: Installation) -> None:
    await run_once(relay)
    for path in (STATE / "journal").iterdir():
        content = bytearray(path.read_bytes())
        content[:200] = b"\xff" * min(200, len(content))
        path.write_bytes(content)


async def _foreign(relay: Installation) -> None:
    await run_once(relay)
    for path in [*STATE.rglob("*")]:
        os.chown(path, 0, 0)


async def _by_hand(relay: Installation) -> None:
    await run_once(relay)
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


MACHINE = (
    Fault(
        what="a state directory where the unit may not write",
        cure="leave --state-dir out|put ReadWritePaths=/srv/relayd into a drop-in",
        make=options(state_dir='"/srv/relayd"'),
        log="/srv/relayd cannot be used: .*under systemd, leave --state-dir out",
        check="fault .*--state-dir: ProtectSystem=strict .*/srv.*ReadWritePaths",
    ),
    Fault(
        what="a full disk below the state directory",
        cure="make room",
        make=_full_state,
        log="No space left on device; make room",
        check="fault .*cannot write to /var/lib/relayd: No space left on device; make room",
    ),
    Fault(
        what="a damaged journal",
        cure="Check the disk|see relayctl journal",
        make=_damaged,
        log="The journal was damaged. It is kept as /var/lib/relayd/journal",
        check="warning .*journal .*damaged once; see relayctl journal",
    ),
    Fault(
        what="a state directory with files of root",
        cure="chown -R --reference=",
        make=_foreign,
        log="Permission denied; another user may own it: chown -R --reference=",
        check="fault .*another user .*chown -R --reference=",
    ),
    Fault(
        what="another relay in the same state directory, by hand",
        cure="give each relay a directory of its own|end one of the two",
        make=_by_hand,
        log=r"in use by another relayd \(process \d+\); give each relay a directory of its own",
        check=r"fault .*process \d+ uses it, not relayd.service, which cannot run beside it: end one of the two",
    ),
    Fault(
        what="another relay with the same name",
        cure="give each relay its own --proxy-id",
        make=_namesake,
        log="another relay may use the same name: give each relay its own --proxy-id",
        sound=True,
    ),
    Fault(
        what="a status port that is in use",
        cure="(give|choose) another",
        make=_taken,
        log="--status: cannot listen at tcp:.*: Address already in use; give another address",
        check="fault .*--status",
    ),
    Fault(
        what="a status socket where the unit may not write",
        cure="give a path in a directory .*such as /run/relayd|or use one that the unit has: .*/run/relayd",
        make=options(status='"unix:/run/status.sock"'),
        log="--status: cannot listen at unix:/run/status.sock: .*such as /run/relayd",
        check="fault .*--status: .*/run",
    ),
    Fault(
        what="few descriptors",
        cure="Raise LimitNOFILE=",
        make=drop_in("LimitNOFILE=64"),
        log="may open only 64 files, .*Raise LimitNOFILE= in its unit",
        sound=True,
    ),
    Fault(
        what="a user that does not exist",
        cure="create it, or remove that line",
        make=drop_in("DynamicUser=no\nUser=relay"),
        check="fault .*there is no user relay, whom User=relay names: create it",
    ),
    Fault(
        what="a credential of another name",
        cure="put LoadCredential=api-key:FILE into a drop-in",
        make=drop_in("LoadCredential=\nLoadCredential=apikey:/etc/relayd/api-key"),
        log=r"its file is empty; the unit passes on no credential api-key \(it passes on .*apikey",
        check=r"fault .*the unit passes on no credential api-key \(it passes on .*apikey",
    ),
)
