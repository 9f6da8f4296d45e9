"""
What a relay tells of itself, from its command line and its file to the main server that asks.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from relayd import __version__
from relayd.hub import Hub, HubSettings
from relayd.hub.errors import InfoRefused
from relayd.wire.messages import Secret
from relayd.wire.relay_info import KnownHosts
from tests.support.relays import Relayd

#: Seconds for a start, or for a reload.
PATIENCE = 60.0
LABELS = ("--label", "site=berlin", "--label", "rack=a=7")


class SocketIORelay(Relayd):
    proxy_id = "proxy-socketio"


class NativeRelay(Relayd):
    proxy_id = "proxy-native"


class RelayInfoTests(TestCase):
    """Two relays as processes, one for each dialect, which share a file."""

    timeout = 3 * PATIENCE

    def write(self, relay_info: str) -> None:
        """The file of both, whole at each moment."""
        new = self.file.with_suffix(".new")
        new.write_text(
            f'relay-info = "{relay_info}"\nmax-commands = 7\n'
            '[[hosts]]\nname = "switches"\nhosts = ["sw-*", "!sw-9"]\nusers = ["s3cret"]\nshell = "none"\n'
        )
        os.replace(new, self.file)

    async def until_told(self, proxy_id: str, expected: object) -> None:
        """The labels and hosts that the main server learns; ``None``: it is refused."""
        end = reactor.seconds() + PATIENCE
        while True:
            try:
                info = await self.hub.info(proxy_id)
                told: object = (info.labels, info.hosts)
            except InfoRefused:
                told = None
            if told == expected or reactor.seconds() > end:
                self.assertEqual(told, expected)
                return
            await deferLater(reactor, 0.05)

    async def test_what_the_main_server_learns(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="relayd-info-"))
        self.addCleanup(shutil.rmtree, folder)
        self.file = folder / "relayd.toml"
        self.write("full")
        relays = (SocketIORelay, NativeRelay)
        hub = self.hub = Hub(reactor, {each.proxy_id: Secret(each.api_key) for each in relays}, HubSettings())
        self.addCleanup(lambda: Deferred.fromCoroutine(hub.close()))
        port = await hub.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
        url = f"http://127.0.0.1:{port.getHost().port}"  # type: ignore[attr-defined]
        started = []
        for kind, dialect in zip(relays, ("socketio", "native"), strict=True):
            options = (
                "--config",
                str(self.file),
                "--dialect",
                dialect,
                "--label",
                "site=berlin",
                "--label",
                "rack=a=7",
            )
            relay = kind(url, *options)
            self.addCleanup(relay.remove)
            relay.start()
            started.append(relay)
        labels = {"site": "berlin", "rack": "a=7"}
        hosts = (KnownHosts(patterns=("sw-*", "!sw-9"), name="switches"),)
        for kind in relays:
            await hub.when_connected(kind.proxy_id)
            info = await hub.info(kind.proxy_id)
            self.assertEqual((info.labels, info.hosts), (labels, hosts))
            self.assertEqual((info.version, info.limits.max_commands), (__version__, 7))
            self.assertGreater(info.uptime, 0)
            again = await hub.info(kind.proxy_id)
            self.assertGreaterEqual(again.uptime, info.uptime)
        for relay_info, told in (("basic", (labels, ())), ("none", None), ("full", (labels, hosts))):
            self.write(relay_info)
            for relay in started:
                relay.signal(signal.SIGHUP)
            for relay in started:
                await self.until_told(relay.proxy_id, told)
