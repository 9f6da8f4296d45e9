"""
Driver of relayd's SSH client, used as a package: see benchmarks/ssh.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.peers.tally import check, read_setup
from benchmarks.peers.twisted_driver import One, serve
from relayd.ssh.client import SSHClient
from relayd.ssh.settings import SSHSettings
from relayd.ssh.target import Credential, Target

#: Seconds that a command, its wait for a turn included, may take.
DEADLINE = 900.0


async def make(reactor: Any) -> One:
    """A connection to each target is opened with the first command for it; idle ones stay."""
    setup = read_setup(sys.argv[1])
    credential = Credential(private_key=Path(setup["key"]).read_text())
    targets = [Target(host, port, setup["user"], credential) for host, port in setup["targets"]]
    settings = SSHSettings(
        known_hosts=setup["known_hosts"],
        host_keys="strict",
        keepalive_interval=setup["keepalive"],
        max_sessions=setup["sessions"],
        idle_timeout=3600.0,
        connect_timeout=60.0,
    )
    client = SSHClient(reactor, settings)
    command = setup["command"].encode()

    async def one(number: int) -> None:
        target = targets[number % len(targets)]
        done = await client.run(target, command, reactor.seconds() + DEADLINE)
        if done.error is not None:
            raise done.error
        check(done.exit.status, done.stdout.text() + "\n")

    return one


if __name__ == "__main__":
    serve(make)
