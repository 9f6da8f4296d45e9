"""
How fast the output of one command is read from a given SSH server, beside OpenSSH's own client on the same server.

The last line is JSON, with ``mb_per_s`` (10^6 bytes a second) of relayd.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from twisted.internet.task import react

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from relayd.ssh.client import SSHClient
from relayd.ssh.settings import SSHSettings
from relayd.ssh.target import Credential, Target

#: What relayd's client and OpenSSH's agree on where both have their way, and OpenSSH's own choice.
OPENSSH_CIPHERS = {"openssh_default_mb_per_s": None, "openssh_same_cipher_mb_per_s": "aes256-gcm@openssh.com"}


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, default=22)
    parser.add_argument("--user", required=True)
    parser.add_argument("--key", required=True, type=Path, help="file of the private key")
    parser.add_argument("--bytes", type=int, default=1_000_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if not arguments.key.is_file():
        parser.error(f"--key: {arguments.key} is no file")
    react(measure, [arguments])


async def measure(reactor: Any, arguments: argparse.Namespace) -> None:
    """Alternate between the clients, so that what else the machine does hits all of them."""
    command = f"head -c {arguments.bytes} /dev/zero"
    rates: dict[str, list[float]] = {name: [] for name in ("mb_per_s", *OPENSSH_CIPHERS)}
    growth = 0
    with tempfile.TemporaryDirectory(prefix="relayd-bulk-") as folder:
        # A bounded part of the output is kept, as relayd does.
        settings = SSHSettings(known_hosts=os.path.join(folder, "known_hosts"), max_output=1 << 20)
        client = SSHClient(reactor, settings)
        credential = Credential(private_key=arguments.key.read_text())
        target = Target(arguments.host, arguments.port, arguments.user, credential)
        await client.run(target, b"true", reactor.seconds() + 30)
        for _ in range(arguments.rounds):
            Path("/proc/self/clear_refs").write_text("5")  # the peak from now on (proc(5))
            before = _peak_kilobytes()
            began = time.perf_counter()
            done = await client.run(target, command.encode(), reactor.seconds() + 600)
            rates["mb_per_s"].append(arguments.bytes / (time.perf_counter() - began) / 1e6)
            if done.error is not None or done.stdout.total != arguments.bytes:
                raise SystemExit(f"bulk: {done.stdout.total} of {arguments.bytes} bytes came: {done.error}")
            growth = max(growth, _peak_kilobytes() - before)
            for name, cipher in OPENSSH_CIPHERS.items():
                rates[name].append(arguments.bytes / openssh(arguments, command, cipher) / 1e6)
        await client.close()
    figures: dict[str, float] = {name: round(median(each), 1) for name, each in rates.items()}
    for name, rate in figures.items():
        print(f"{name:30} {rate:8.1f}   {figures['mb_per_s'] / rate:5.2f} x")
    print(json.dumps(figures | {"bytes": arguments.bytes, "growth_mb": round(growth / 1024, 1)}))


def _peak_kilobytes() -> int:
    """The most memory that this process has held since it was last asked to forget."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


def openssh(arguments: argparse.Namespace, command: str, cipher: str | None) -> float:
    """Seconds that ``ssh`` takes, its connection included: that is a small part of a gigabyte."""
    argv = ["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]
    argv += ["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-i", str(arguments.key)]
    argv += ["-p", str(arguments.port), *(["-c", cipher] if cipher else []), f"{arguments.user}@{arguments.host}"]
    began = time.perf_counter()
    subprocess.run([*argv, command], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
