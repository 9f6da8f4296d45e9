"""
A main server that wants the site's own credentials: it sends them by ways of its own, to hosts of its own.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from relayd.ssh.keys.public import fingerprint
from tests.support.node import NodeServer
from tests.support.relays import ROOT, Relayd
from tests.support.script import ScriptServer
from tests.support.ssh import blob_of, key_pair
from tests.support.sshd import OpenSSHServer
from tests.system.test_end_to_end import EndToEndCase

RULES = ("--allow-hosts", "127.0.0.0/8", "--allow-users", "relayd-*", "--allow-commands", "echo [a-z]+")
#: What the main server itself logs in with.
OWN = "password-of-the-main-server"

TABLES = """
[[credentials]]
hosts = ["[{near.host}]:{near.port}", "[{near.host}]:{thief.port}"]
password-file = "password"

[[credentials]]
hosts = ["[{jump.host}]:{jump.port}"]
key-file = "jump"

[[credentials]]
hosts = ["[{far.host}]:{far.port}"]
key-file = "far"
via = "{jump.host}:{jump.port}"
"""


class FarServer(OpenSSHServer):
    """On another address, so that it is clear which one is meant."""

    host = "127.0.0.2"


class SiteCredentials(EndToEndCase):
    """``twistd relayd``, two hosts of the site, the site's jump host to one of them, and the main server's to both."""

    timeout = 180

    async def begin_site(self, host_keys: str, *rules: str) -> None:
        self.near, self.far, self.jump = OpenSSHServer(), FarServer(), OpenSSHServer()
        for server in (self.near, self.far, self.jump):
            await server.start()
            self.addCleanup(server.stop)
        self.sshd = self.near
        self.site = Path(tempfile.mkdtemp(prefix="relayd-test-site-"))
        self.addCleanup(shutil.rmtree, self.site)
        for name, secret in (("password", self.near.password), ("far", self.far.key), ("jump", self.jump.key)):
            (self.site / name).touch(mode=0o600)
            (self.site / name).write_text(secret)
        private, public = key_pair()
        self.evil_key = public
        (self.site / "thief.json").write_text(json.dumps({"host_key": private}))
        script = str(ROOT / "tests" / "support" / "thief_server.py")
        self.thief = ScriptServer([sys.executable, script, str(self.site / "thief.json")])
        await self.thief.start()
        self.addCleanup(self.thief.stop)
        config = self.site / "relayd.toml"
        config.write_text(TABLES.format(near=self.near, far=self.far, jump=self.jump, thief=self.thief))
        self.known_hosts = self.site / "known_hosts"
        known = [server.host_key_line for server in (self.near, self.far, self.jump)] if host_keys == "strict" else []
        # A host of the site in whose place somebody else answers.
        self.taken = f"[127.0.0.1]:{self.thief.port}"
        self.known_hosts.write_text("\n".join([*known, f"{self.taken} {self.near.host_keys[0]}", ""]))
        self.server = NodeServer("socketio_server.js", json.dumps({"apiKey": Relayd.api_key}))
        self.addCleanup(self.stop_server)
        port = await self.server.start()
        options = ("--config", str(config), "--known-hosts", str(self.known_hosts), "--host-keys", host_keys)
        self.relay = Relayd(f"http://127.0.0.1:{port}", *options, *rules)
        self.addCleanup(self.relay.remove)
        self.relay.start()
        await self.server.wait_for(lambda line: line.get("connected") == Relayd.proxy_id)
        self.number = 0

    async def answer(self, host: OpenSSHServer, **changes: Any) -> tuple[str, str]:
        """Order a command without a credential; its output, and the code of its error."""
        self.number += 1
        name = f"c{self.number}"
        place = {"host": host.host, "port": host.port, "privateKey": None}
        self.order(name, "echo ok", extended=True, **{**place, **changes})
        result = await self.socketio_result(name)
        return result["stdout"], result["more"].get("error", {}).get("code", "")

    def stolen(self) -> set[str]:
        """What the main server's host was logged in to with."""
        return {line.get("password") or line["key"] for line in self.thief.lines if {"password", "key"} & line.keys()}

    async def attack(self, host_keys: str, *rules: str) -> None:
        await self.begin_site(host_keys, *rules)
        evil = {"hostKey": fingerprint(blob_of(self.evil_key))}
        hop = {"host": "127.0.0.1", "port": self.thief.port, "username": self.near.user, "password": OWN, **evil}
        for host in (self.near, self.far):
            place = {"host": host.host, "port": host.port, "username": host.user}
            for key in ({}, evil):
                self.assertEqual(await self.answer(host, via=[hop], **key), ("", "credential-kept"))
                through = [hop, {**place, **key}]
                self.assertEqual(await self.answer(host, via=through, password=OWN), ("", "credential-kept"))
                self.assertEqual(await self.answer(host, via=[{**place, **key}]), ("", "credential-kept"))
                for part in ({"passphrase": "p"}, {"certificate": "c"}):
                    for via in ([], [hop]):
                        found = await self.answer(host, via=via, **part, **key)
                        self.assertEqual(found, ("", "credential-incomplete"))
            self.assertEqual(await self.answer(host, **evil), ("", "host-key-unexpected"))
            # With its own credential it may go where it likes: what shows itself there is not the site's host.
            expected = ("stolen", "") if host_keys == "accept-new" else ("", "host-key-changed")
            self.assertEqual(await self.answer(host, via=[hop], password=OWN), expected)
            self.assertEqual(await self.answer(host, via=[hop], password=OWN, **evil), ("stolen", ""))
            self.assertEqual(await self.answer(host, **evil), ("", "host-key-unexpected"))
        for key in ({}, evil):
            found = await self.answer(self.near, port=self.thief.port, **key)
            self.assertEqual(found, ("", "host-key-changed"))
        self.assertEqual(self.stolen(), {OWN})
        logs = self.near.log_lines + self.far.log_lines
        self.assertEqual([line for line in logs if "Accepted" in line], [])
        for host in (self.near, self.far):
            true = {"hostKey": fingerprint(blob_of(host.host_keys[0]))}
            self.assertEqual([await self.answer(host), await self.answer(host, **true)], [("ok", ""), ("ok", "")])
            self.assertEqual(await self.answer(host, **evil), ("", "host-key-unexpected"))
        self.assertEqual(self.stolen(), {OWN})
        names = {line.split()[0]: line.split()[2] for line in self.known_hosts.read_text().splitlines()}
        for server in (self.near, self.far, self.jump):
            self.assertEqual(names.pop(f"[{server.host}]:{server.port}"), server.host_keys[0].split()[1])
        self.assertEqual(names.pop(self.taken), self.near.host_keys[0].split()[1])
        # What is left was met by the ways of the main server.
        self.assertEqual([name for name in names if f"/127.0.0.1:{self.thief.port}]" not in name], [])
        for secret in (self.near.password, OWN):
            self.assertNotIn(secret, self.relay.log)
        self.assertNotIn("Traceback", self.relay.log)

    async def test_strict(self) -> None:
        await self.attack("strict")

    async def test_strict_with_rules(self) -> None:
        await self.attack("strict", *RULES)

    async def test_accept_new(self) -> None:
        await self.attack("accept-new")

    async def test_accept_new_with_rules(self) -> None:
        await self.attack("accept-new", *RULES)
