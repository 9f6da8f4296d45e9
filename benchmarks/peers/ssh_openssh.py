"""
Driver of OpenSSH's own client with ControlMaster: one connection, and a process for each command.  See
benchmarks/ssh.py.

Its CPU time is that of the ssh processes, the master included, and not of this driver.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.tally import OUTPUT, Failed, Tally, read_setup


class Client:
    """
    :param folder: for the master's socket and for what the commands write.
    """

    def __init__(self, setup: dict[str, Any], folder: Path) -> None:
        host, port = setup["targets"][0]
        self._output = folder / "output"
        self._errors = folder / "errors"
        options = ["-F", "none", "-n", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={setup['known_hosts']}"]
        options += ["-i", setup["key"], "-o", "IdentitiesOnly=yes", "-o", f"ServerAliveInterval={setup['keepalive']}"]
        options += ["-o", f"ControlPath={folder / 'master'}", "-p", str(port), f"{setup['user']}@{host}"]
        self._argv = ["ssh", "-o", "ControlMaster=no", *options, setup["command"]]
        # With none of our streams: whoever waits for their end would wait for the master too.
        self._master = subprocess.Popen(
            ["ssh", "-o", "ControlMaster=yes", "-N", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 30
        while not (folder / "master").exists():
            if time.monotonic() > until or self._master.poll() is not None:
                raise SystemExit("ssh: no connection came about")
            time.sleep(0.01)

    def work(self, count: int, concurrency: int) -> dict[str, Any]:
        """Do as a request says; ``cpu`` of the answer is in seconds."""
        tally = Tally()
        running: dict[int, float] = {}
        started = 0
        cpu = -_cpu_seconds(self._master.pid)
        actions = self._redirections()
        while started < count or running:
            while started < count and len(running) < concurrency:
                began = time.perf_counter()
                running[os.posix_spawnp("ssh", self._argv, os.environ, file_actions=actions)] = began
                started += 1
            pid, status, usage = os.wait4(-1, 0)
            cpu += usage.ru_utime + usage.ru_stime
            began = running.pop(pid)
            if status == 0:
                tally.done(began)
            else:
                tally.failed(Failed(f"exit code {os.waitstatus_to_exitcode(status)}{self._last_error()}"))
        cpu += _cpu_seconds(self._master.pid)
        answer = tally.report(cpu=cpu)
        written = self._output.stat().st_size
        if written != len(answer["latencies"]) * len(OUTPUT):
            raise SystemExit(f"ssh: {written} bytes of output of {len(answer['latencies'])} commands")
        return answer

    def stop(self) -> None:
        """Close the connection."""
        self._master.terminate()
        self._master.wait()

    def _redirections(self) -> list[Any]:
        for path in (self._output, self._errors):
            path.write_bytes(b"")
        flags = os.O_WRONLY | os.O_APPEND
        return [
            (os.POSIX_SPAWN_OPEN, 1, str(self._output), flags, 0o600),
            (os.POSIX_SPAWN_OPEN, 2, str(self._errors), flags, 0o600),
        ]

    def _last_error(self) -> str:
        lines = self._errors.read_text(errors="replace").splitlines()
        return f": {lines[-1]}" if lines else ""


def _cpu_seconds(pid: int) -> float:
    """CPU time of another process so far: see benchmarks/run.py."""
    return time.clock_gettime(~pid << 3 | 2)


def main() -> None:
    """Serve requests until standard input ends."""
    with tempfile.TemporaryDirectory(prefix="relayd-ssh-") as folder:
        client = Client(read_setup(sys.argv[1]), Path(folder))
        try:
            print(json.dumps({"ready": True}), flush=True)
            for line in sys.stdin:
                request = json.loads(line)
                answer = client.work(request["count"], request["concurrency"]) if request["do"] == "work" else {}
                print(json.dumps(answer), flush=True)
        finally:
            client.stop()


if __name__ == "__main__":
    main()
