"""
Driver of asyncssh: one connection a host, ``conn.run`` for each command.  See benchmarks/ssh.py.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from typing import Any

import asyncssh

from benchmarks.peers.tally import Tally, check, read_setup


class Client:
    """Its connections, by number of the target."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self._targets = setup["targets"]
        self._command = setup["command"]
        self._connections: dict[int, asyncssh.SSHClientConnection] = {}
        # Made once: to make them for each connection costs more.
        self._options = asyncssh.SSHClientConnectionOptions(
            username=setup["user"],
            client_keys=[asyncssh.read_private_key(setup["key"])],
            agent_path=None,
            config=None,
            known_hosts=None,
            keepalive_interval=setup["keepalive"],
            login_timeout=60,
        )

    async def one(self, number: int) -> None:
        """Run the command; where there is no connection yet, open it."""
        at = number % len(self._targets)
        connection = self._connections.get(at)
        if connection is None:
            host, port = self._targets[at]
            connection = await asyncssh.connect(host, port, options=self._options)
            self._connections[at] = connection
        ended = await connection.run(self._command, stdin=asyncssh.DEVNULL)
        check(ended.exit_status, str(ended.stdout))

    async def work(self, count: int, concurrency: int) -> Tally:
        """Do as a request says."""
        tally = Tally()
        numbers = iter(range(count))

        async def worker() -> None:
            for number in numbers:
                began = time.perf_counter()
                try:
                    await self.one(number)
                except (OSError, TimeoutError, asyncssh.Error) as error:
                    tally.failed(error)
                except Exception as error:  # such as a wrong answer
                    tally.failed(error)
                else:
                    tally.done(began)

        await asyncio.gather(*(worker() for _ in range(concurrency)))
        return tally


async def main() -> None:
    """Serve requests until standard input ends."""
    client = Client(read_setup(sys.argv[1]))
    requests = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)
    print(json.dumps({"ready": True}), flush=True)
    while line := await requests.readline():
        request = json.loads(line)
        if request["do"] == "settle":
            gc.collect()
            answer = {}
        else:
            answer = (await client.work(request["count"], request["concurrency"])).report()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
