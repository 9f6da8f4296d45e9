"""
What the hub costs and bears: a real ``twistd relayd-hub`` with SQLite on disk, simulated relays over real sockets, and
persons at its API meanwhile.

``relays``: as many as are said connect, and come back after a restart.  ``run``: one run on all hosts, while the API is
asked again and again.  ``history``: the lists before and after a year of runs.  The last line is JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from threading import Event, Thread
from typing import Any

import sqlalchemy

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.run import cpu_seconds
from benchmarks.ssh import raise_limits
from relayd.hub.decisions.states import InvocationState, RunState
from relayd.hub.relays.secrets import digest_of_key, new_key
from relayd.hub.store import tables
from relayd.hub.store.ids import new_id

HERE = Path(__file__).resolve().parent
PASSWORD = "correct horse battery staple 26"
DAY = 86_400 * 1_000_000


class Hub:
    """A hub with a state of its own, and one token of its administrator."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "hub"
        self.database = self.state / "hub.sqlite3"
        self.port = _free_port()
        self.token = ""
        self._process: subprocess.Popen[bytes] | None = None
        password = folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o600)
        self._tool("hub", "init", "--admin", "admin", "--password-file", str(password), *self._options())

    def _options(self) -> list[str]:
        return ["--state-dir", str(self.state)]

    def _tool(self, *arguments: str) -> None:
        subprocess.run([str(Path(sys.executable).with_name("relayctl")), *arguments], check=True, capture_output=True)

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        listen = ["--listen", f"tcp:127.0.0.1:{self.port}"]
        twistd = str(Path(sys.executable).with_name("twistd"))
        command = [twistd, "-n", "--pidfile=", "relayd-hub", *self._options(), *listen]
        with open(self.folder / "hub.log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + 60
        while True:
            try:
                if self.ask("GET", "/readyz", below="")[0] == 200:
                    break
            except OSError:
                pass
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise SystemExit(f"the hub does not start; see {self.folder}/hub.log")
            time.sleep(0.1)
        if not self.token:
            self._make_token()

    def stop(self) -> None:
        """End it in good order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def _make_token(self) -> None:
        status, made, headers = self.ask_whole("POST", "/session", {"user": "admin", "password": PASSWORD})
        assert status in (200, 201), made
        cookie = headers["set-cookie"].split(";")[0]
        more = {"Cookie": cookie, "X-CSRF-Token": made["csrfToken"], "Origin": f"http://127.0.0.1:{self.port}"}
        scopes = ["runs:read", "runs:write", "inventory:read", "relays:read"]
        status, made, _ = self.ask_whole("POST", "/tokens", {"name": "bench", "scopes": scopes}, more)
        assert status == 201, made
        self.token = made["text"]

    def ask(self, method: str, path: str, body: Any = None, below: str = "/api/v1") -> tuple[int, Any]:
        """One request; gives its status and the JSON."""
        return self.ask_whole(method, path, body, below=below)[:2]

    def ask_whole(
        self, method: str, path: str, body: Any = None, more: dict[str, str] | None = None, below: str = "/api/v1"
    ) -> tuple[int, Any, Any]:
        """The same, with its headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": "application/json"} | (more or {})
        if self.token and more is None:
            headers |= {"Authorization": f"Bearer {self.token}", "Idempotency-Key": token_hex(16)}
        try:
            connection.request(method, below + path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            data = answer.read()
            return answer.status, json.loads(data) if data[:1] in (b"{", b"[") else data, answer.headers
        finally:
            connection.close()

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    @property
    def megabytes(self) -> float:
        """What it holds in memory."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    @contextmanager
    def tables(self) -> Iterator[sqlalchemy.Connection]:
        """Its database, while it does not run."""
        engine = sqlalchemy.create_engine(f"sqlite:///{self.database}")
        try:
            with engine.begin() as connection:
                yield connection
        finally:
            engine.dispose()

    def fill(self, relays: int, hosts: int) -> Path:
        """Add relays and hosts, each of which one relay reaches; gives the file of the relays' keys."""
        now = time.time_ns() // 1000
        lines, rows, keys, names = [], [], [], []
        for number in range(relays):
            relay, key, name = new_id(now), new_key().reveal(), f"relay-{number:04}"
            rows.append({"id": relay, "name": name, "created_at": now})
            keys.append({"id": new_id(now), "relay_id": relay, "digest": digest_of_key(key), "created_at": now})
            lines.append(f"{name} {key}")
            names.append(relay)
        inventory, labels, ways = [], [], []
        for number in range(hosts):
            host = new_id(now)
            address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
            name = f"host-{number:05}"
            inventory.append({"id": host, "name": name, "address": address, "port": 22, "user": "u", "created_at": now})
            labels.append({"host_id": host, "key": "env", "value": "prod" if number % 2 else "test"})
            ways.append({"host_id": host, "position": 0, "relay_id": names[number % relays]})
        with self.tables() as connection:
            connection.execute(tables.relays.insert(), rows)
            connection.execute(tables.relay_keys.insert(), keys)
            connection.execute(tables.hosts.insert(), inventory)
            connection.execute(tables.host_labels.insert(), labels)
            connection.execute(tables.host_relays.insert(), ways)
        file = self.folder / "keys"
        file.write_text("\n".join(lines) + "\n")
        return file

    def add_history(self, invocations: int, size: int = 100) -> None:
        """A year of runs that have ended, of *size* invocations each."""
        now = time.time_ns() // 1000
        runs = invocations // size
        output = sha256(b"").digest()
        with self.tables() as connection:
            for number in range(runs):
                at = now - 365 * DAY + number * (364 * DAY // runs)
                run = new_id(at)
                connection.execute(
                    tables.runs.insert().values(
                        id=run, created_by="user:admin", created_at=at, state=str(RunState.SUCCEEDED),
                        command='{"command":"true"}', selector="all", rollout="{}", output_limit=1 << 20, size=size,
                        counts=json.dumps({"succeeded": size}), change=size, ended_at=at + 1_000_000,
                    )
                )  # fmt: skip
                rows = [
                    {
                        "id": new_id(at), "run_id": run, "position": position, "host_id": f"h{position}",
                        "host_name": f"host-{position:05}", "host": "{}", "relay": "relay-0000",
                        "state": str(InvocationState.SUCCEEDED), "exit_code": 0, "sent_at": at,
                        "ended_at": at + 1_000_000, "output_digest": output, "change": position + 1,
                    }
                    for position in range(size)
                ]  # fmt: skip
                connection.execute(tables.invocations.insert(), rows)


class Relays:
    """The simulated relays."""

    def __init__(self, hub: Hub, keys: Path) -> None:
        command = [sys.executable, str(HERE / "peers" / "many_relays.py"), "127.0.0.1", str(hub.port), str(keys)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self._seen: dict[str, int] = {"connected": 0, "ran": 0, "twice": 0, "confirmed": 0}
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._seen = json.loads(line)

    def wait(self, connected: int, seconds: float = 120) -> float:
        """Wait until so many are connected; gives the seconds that it took."""
        begun = time.monotonic()
        while self._seen["connected"] < connected:
            if time.monotonic() - begun > seconds:
                raise SystemExit(f"only {self._seen['connected']} of {connected} relays are connected")
            time.sleep(0.02)
        return time.monotonic() - begun

    @property
    def ran(self) -> int:
        """How many commands they ran."""
        return self._seen["ran"]

    @property
    def twice(self) -> int:
        """How often one came that had run before."""
        return self._seen["twice"]

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class Asker:
    """Asks the API for lists, one after the other, from a thread of its own."""

    def __init__(self, hub: Hub, paths: list[str]) -> None:
        self._hub = hub
        self._paths = paths
        self._over = Event()
        self.times: list[float] = []
        self._thread = Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        number = 0
        while not self._over.is_set():
            begun = time.monotonic()
            status, _ = self._hub.ask("GET", self._paths[number % len(self._paths)])
            if status == 200:
                self.times.append((time.monotonic() - begun) * 1000)
            number += 1
            time.sleep(0.02)

    def stop(self) -> list[float]:
        self._over.set()
        self._thread.join()
        return self.times


def relays(hub: Hub, simulated: Relays, count: int) -> dict[str, float]:
    """Connected, at rest, and back after a restart."""
    first = simulated.wait(count)
    time.sleep(5)
    held = hub.megabytes
    hub.stop()
    hub.start()
    begun = time.monotonic()
    time.sleep(1.1)  # until those that were connected are told of as gone
    simulated.wait(count)
    return {"relays": count, "connect_s": first, "resident_mb": held, "back_s": time.monotonic() - begun}


def run(hub: Hub, simulated: Relays, hosts: int) -> dict[str, float]:
    """One run on all hosts."""
    ran, cpu = simulated.ran, cpu_seconds(hub.pid)
    begun = time.monotonic()
    status, made = hub.ask("POST", "/runs", {"command": "true", "selector": "all"})
    assert status in (200, 201, 202), made
    ordered = time.monotonic() - begun
    path = f"/runs/{made['id']}"
    asker = Asker(hub, ["/runs", path, f"{path}/invocations?limit=100", "/relays?limit=100", "/hosts?limit=100"])
    while (state := hub.ask("GET", path)[1])["endedAt"] is None and time.monotonic() - begun < 600:
        time.sleep(0.2)
    seconds = time.monotonic() - begun
    times = asker.stop()
    used = cpu_seconds(hub.pid) - cpu
    time.sleep(1.1)
    return {
        "invocations": hosts,
        "succeeded": state["counts"].get("succeeded", 0),
        "ran": simulated.ran - ran,
        "ran_twice": simulated.twice,
        "ordered_s": ordered,
        "seconds": seconds,
        "cpu_ms_each": used * 1000 / hosts,
        "api_p95_ms": _percentile(times, 95),
        "api_median_ms": statistics.median(times) if times else 0.0,
        "resident_mb": hub.megabytes,
    }


def history(hub: Hub, invocations: int) -> dict[str, float]:
    """Each list before and after a year."""
    hub.start()
    run_id = hub.ask("GET", "/runs?limit=1")[1]["items"][0]["id"]
    lists = {
        "runs": "/runs?limit=100",
        "invocations": f"/runs/{run_id}/invocations?limit=100",
        "failed": f"/runs/{run_id}/invocations?state=failed&limit=100",
        "hosts": "/hosts?limit=100",
        "relays": "/relays?limit=100",
    }
    before = {name: _median_ms(hub, path) for name, path in lists.items()}
    hub.stop()
    hub.add_history(invocations)
    hub.start()
    after = {name: _median_ms(hub, path) for name, path in lists.items()}
    return {f"{name}_ratio": after[name] / before[name] for name in lists} | {f"{n}_ms": after[n] for n in lists}


def _median_ms(hub: Hub, path: str, count: int = 60) -> float:
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        status, answer = hub.ask("GET", path)
        times.append((time.perf_counter() - begun) * 1000)
        assert status == 200, answer
    return statistics.median(times)


def _percentile(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)] if values else 0.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=["relays", "run", "history"], default=["relays", "run", "history"])
    parser.add_argument("--relays", type=int, default=1000)
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--history", type=int, default=1_000_000, help="invocations of the year")
    parser.add_argument("--folder", help="where the hub's state is, which must be a disk and not memory")
    arguments = parser.parse_args()
    raise_limits()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    folder = Path(tempfile.mkdtemp(prefix="relayd-bench-hub-", dir=arguments.folder))
    hub = Hub(folder)
    simulated: Relays | None = None
    figures: dict[str, dict[str, float]] = {}
    try:
        keys = hub.fill(arguments.relays, arguments.hosts)
        hub.start()
        simulated = Relays(hub, keys)
        simulated.wait(arguments.relays)
        if "relays" in arguments.only:
            figures["relays"] = relays(hub, simulated, arguments.relays)
            _show("relays", figures)
        if "run" in arguments.only:
            figures["run"] = run(hub, simulated, arguments.hosts)
            _show("run", figures)
        simulated.stop()
        hub.stop()
        if "history" in arguments.only:
            figures["history"] = history(hub, arguments.history)
            _show("history", figures)
        print(json.dumps(figures))
    finally:
        if simulated is not None:
            simulated.stop()
        hub.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _show(part: str, figures: dict[str, dict[str, float]]) -> None:
    print(part)
    for name, value in figures[part].items():
        print(f"  {name:20} {value:10.2f}", flush=True)


if __name__ == "__main__":
    main()
