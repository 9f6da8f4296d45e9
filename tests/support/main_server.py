"""
The main server of the parity test and the benchmarks: ``benchmarks/main_server.js`` on the npm socket.io server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from tests.support.node import NodeServer
from tests.support.process import PeerFailed


class MainServer(NodeServer):
    """
    A main server on namespace ``/proxy`` that gives relays commands, without a timeout of its own but generous ones.

    :param key_file: the file of the API key that relays must show.
    :param max_buffer: the largest message taken, in bytes; the default is that of socket.io.
    :param watch: whether events are checked (`tests.support.schemas`), which takes time.
    """

    def __init__(self, key_file: Path, max_buffer: int = 1_000_000, *, watch: bool = False) -> None:
        options = ["--api-key-file", str(key_file), "--max-buffer", str(max_buffer), *(["--watch"] if watch else [])]
        super().__init__("../../benchmarks/main_server.js", *options)
        self._numbers = count(1)

    @property
    def url(self) -> str:
        """Where relays find it."""
        return f"http://127.0.0.1:{self.port}"

    async def connected(self, proxy_id: str, timeout: float = 30) -> None:
        """
        Wait until the relay *proxy_id* is connected.

        :param timeout: in seconds.
        :raises PeerFailed: when it is not connected by then.
        """
        await self._ask(timeout + 10, op="wait", proxyId=proxy_id, timeout=timeout * 1000)

    async def execute(self, proxy_id: str, command: Mapping[str, Any]) -> dict[str, Any]:
        """
        Run one command on a relay.

        :param command: the data of ``execute_command``; without ``commandId``, it gets one of its own.
        :return: ``result`` as it arrived.
        :raises PeerFailed: when there was none.
        """
        answer = await self._ask(60, op="execute", proxyId=proxy_id, command=dict(command))
        result: dict[str, Any] = answer["result"]
        return result

    async def tell(
        self, proxy_id: str, data: Mapping[str, Any], *, ack: bool = False, count: int = 1, timeout: float = 20
    ) -> tuple[list[Any], list[Any]]:
        """
        Send a relay ``execute_command`` with exactly this data.

        :param ack: whether to ask for an acknowledgement.
        :param count: how many results to wait for.
        :param timeout: in seconds, after which no more are waited for.
        :return: the acknowledgements, and the data of ``command_result``, as they arrived.
        """
        fields = {"data": dict(data), "ack": ack, "count": count, "timeout": timeout * 1000}
        answer = await self._ask(timeout + 30, op="tell", proxyId=proxy_id, **fields)
        return answer["acks"], answer["results"]

    async def load(
        self,
        proxy_id: str,
        targets: Sequence[Mapping[str, Any]],
        *,
        command: str,
        expect: Mapping[str, Any],
        count: int,
        concurrency: int,
    ) -> dict[str, Any]:
        """
        Run *count* times *command* on a relay, *concurrency* at a time, over *targets* in turn.

        :param targets: data of ``execute_command``, without ``commandId``, ``command`` and ``timeout``.
        :param expect: ``exitCode``, and ``length`` and ``sha256`` of the standard output that each command must have.
        :return: ``seconds``; ``rate``, of successes a second; ``median`` and ``p95``, latencies of successes in ms;
            ``failures``; ``reasons``, their messages with counts.
        """
        return await self._ask(
            600,
            op="load",
            proxyId=proxy_id,
            targets=[dict(target) for target in targets],
            command=command,
            expect=dict(expect),
            count=count,
            concurrency=concurrency,
            timeout=30_000,
        )

    async def _ask(self, deadline: float, **request: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self.send({"id": number, **request})
        answer: dict[str, Any] = await self.wait_for(
            lambda line: isinstance(line, dict) and line.get("id") == number, deadline
        )
        if "error" in answer:
            raise PeerFailed(answer["error"])
        return answer
