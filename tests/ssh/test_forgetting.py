"""
What is left of a secret when commands and connections have ended: nothing, whichever way it went, with real servers.
"""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from types import FrameType
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from twisted.conch.ssh.keys import Key

from relayd.network.credential_rules import CredentialRule
from relayd.ssh.errors import ConnectRefused, FileNotWritten, KeyUnreadable, LoginRefused, LoginResting, RunTimeout
from relayd.ssh.files.orders import FileOrders, FileToRead, FileToWrite
from relayd.ssh.keys import private
from relayd.ssh.login.site_credentials import CredentialTable
from relayd.ssh.target import Credential, Target
from tests.support.ssh import ServerTestCase, key_pair
from tests.support.sshd import OpenSSHServer


def fresh(text: str) -> str:
    """The same text as an object of its own, which nobody else has."""
    return "".join(list(text))


def new_key(passphrase: str = "") -> str:
    lock: Any = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    return ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, lock).decode()


def targets_and_keys() -> list[object]:
    """All that there are, of keys the private ones."""
    gc.collect()
    return [
        each for each in gc.get_objects() if isinstance(each, Target) or (isinstance(each, Key) and not each.isPublic())
    ]


class ForgettingTests(ServerTestCase):
    """A client that closes its connections soon."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(private, "KEPT", 0.5)
        self.client = self.make_client(idle_timeout=0.4, connect_timeout=10)
        self.others = targets_and_keys()  # of tests that ran before
        self.credentials: list[tuple[str, weakref.ref[Credential]]] = []

    def secret_target(self, name: str, server: OpenSSHServer, **changes: Any) -> Target:
        """A target with a credential that is watched."""
        target = self.target(server, **changes)
        self.credentials.append((name, weakref.ref(target.credential)))
        return target

    async def end(self) -> None:
        """Wait until the connections have ended, and nothing of the secrets is left."""
        await self.until(lambda: self.client.counts().connections == 0, "connections are closed")
        await self.until(lambda: not self.client._keys._parsed, "keys are forgotten")
        await self.sleep(0.2)
        gc.collect()
        left = [name for name, credential in self.credentials if credential() is not None]
        self.assertEqual(left, [], [self.holders(credential()) for _, credential in self.credentials if credential()])
        others = {id(each) for each in self.others}
        found = [each for each in targets_and_keys() if id(each) not in others]
        self.assertEqual(len(found), 0, [self.holders(each) for each in found])

    def holders(self, held: object) -> list[str]:
        """Who holds something, three steps back, for whoever has to find out why."""
        found: list[str] = []
        ends: list[object] = [held]
        for _ in range(3):
            ends = [each for end in ends for each in gc.get_referrers(end) if not isinstance(each, FrameType)]
            found += [f"{type(each).__module__}.{type(each).__qualname__}" for each in ends]
        return found[:40]

    async def test_files(self) -> None:
        """By SFTP and by a shell, what is written, what is not, and what is read."""
        for config in ((), ("Subsystem sftp internal-sftp",)):
            server = await self.start_server(*config)
            for path in (b"/tmp/relayd-test-forgetting", b"/no/such/place"):
                orders = FileOrders(
                    writes=(FileToWrite(path=path, name="x", content=b"x", mode=0o600),),
                    reads=(FileToRead(path=path, name="x", most=10),),
                )
                target = self.secret_target("files", server, password=server.password)
                running = self.client.run(
                    target, b"rm -f /tmp/relayd-test-forgetting", self.reactor.seconds() + 60, files=orders
                )
                running.addErrback(lambda failure: failure.trap(FileNotWritten) and None)
                await running
                del target, running
        await self.end()

    async def test_accepted(self) -> None:
        server = await self.start_server()
        for _ in range(2):
            for name, credential in (
                ("password", {"password": server.password}),
                ("key", {"private_key": server.key}),
                ("both", {"private_key": server.key, "password": server.password}),
            ):
                done = await self.run_command(self.client, self.secret_target(name, server, **credential), "echo ok")
                self.assertEqual(done.stdout.text(), "ok")
        await self.end()

    async def test_a_key_with_a_passphrase(self) -> None:
        server = await self.start_server()
        locked = new_key("of the test")
        public = private.parse_private_key(locked, "of the test").public().toString("openssh").decode()
        server.authorize(public)
        target = self.secret_target("locked", server, private_key=locked, passphrase="of the test")
        done = await self.run_command(self.client, target, "echo ok")
        self.assertEqual(done.stdout.text(), "ok")
        del target
        wrong = self.secret_target("wrong", server, private_key=locked, passphrase="another")
        await self.error_of(self.run_command(self.client, wrong, "true"), KeyUnreadable)
        del wrong
        await self.end()

    async def test_a_key_that_signs_in_a_thread(self) -> None:
        self.patch(private, "MAX_QUICK_RSA_BITS", 1024)
        server = await self.start_server()
        key, public = key_pair("rsa")
        server.authorize(public)
        for name, user in (("accepted", server.user), ("refused", "nobody-of-this-name")):
            target = self.secret_target(name, server, username=user, private_key=fresh(key))
            done = self.run_command(self.client, target, "echo ok")
            if user == server.user:
                self.assertEqual((await done).stdout.text(), "ok")
            else:
                await self.error_of(done, LoginRefused)
            del target, done
        await self.end()

    async def test_refused(self) -> None:
        server = await self.start_server()
        for name, credential in (
            ("password", {"password": "wrong"}),
            ("key", {"private_key": new_key()}),
            ("both", {"private_key": new_key(), "password": "wrong as well"}),
        ):
            target = self.secret_target(name, server, **credential)
            await self.error_of(self.run_command(self.client, target, "true"), LoginRefused)
            await self.error_of(self.run_command(self.client, target, "true"), LoginResting)
            del target
        await self.end()

    async def test_what_did_not_come_to_a_login_or_to_an_end(self) -> None:
        server = await self.start_server()
        target = self.secret_target("no server", server, password="x", port=1)
        await self.error_of(self.run_command(self.client, target, "true"), ConnectRefused)
        target = self.secret_target("no key", server, private_key="none", password=None)
        await self.error_of(self.run_command(self.client, target, "true"), KeyUnreadable)
        target = self.secret_target("too long", server)
        done = await self.run_command(self.client, target, "sleep 30", 1)
        self.assertIsInstance(done.error, RunTimeout)
        del target, done
        await self.end()

    async def test_through_a_jump_host(self) -> None:
        hop, server = await self.start_server(), await self.start_server()
        via = self.secret_target("hop", hop)
        target = self.secret_target("behind", server, password=server.password, via=via)
        done = await self.run_command(self.client, target, "echo ok")
        self.assertEqual(done.stdout.text(), "ok")
        target = self.secret_target("refused behind", server, password="wrong", via=via)
        await self.error_of(self.run_command(self.client, target, "true"), LoginRefused)
        del target, via
        await self.end()

    async def test_credentials_of_the_site(self) -> None:
        """They are read again when they are needed again."""
        server = await self.start_server()
        path = Path(self.directory) / "key"
        path.touch(mode=0o600)
        path.write_text(server.key)
        table = CredentialTable([CredentialRule(hosts=("*",), key_file=str(path))])
        target = table.target(server.host, server.port, server.user)
        assert target is not None
        self.credentials.append(("site", weakref.ref(target.credential)))
        done = await self.run_command(self.client, target, "echo ok")
        self.assertEqual(done.stdout.text(), "ok")
        del target
        again = table.target(server.host, server.port, server.user)
        assert again is not None
        self.assertIs(again.credential, self.credentials[0][1]())  # the connection has it
        del again
        await self.end()
        self.assertIsNotNone(table.target(server.host, server.port, server.user))


class GarbageTests(ServerTestCase):
    """
    Commands that have ended are freed at once: what waits for the collector of garbage keeps its secrets until then,
    and a long collection holds up the event loop the longer.
    """

    async def check(self, *targets: Target, command: str = "true", seconds: float = 30.0, **settings: float) -> None:
        client = self.make_client(**settings)
        for number in range(4):
            if number == 1:  # what is made once for a host or a connection does not count
                gc.collect()
                gc.disable()
                self.addCleanup(gc.enable)
            target = targets[number % len(targets)]
            await self.run_command(client, target, command, seconds).addErrback(lambda _: None)
            await self.until(lambda: not client.counts().sessions, "its session is closed")
            if "idle_timeout" in settings:
                await self.until(lambda: not client.counts().connections, "its connection is closed")
        await self.sleep(0.1)
        gc.set_debug(gc.DEBUG_SAVEALL)
        self.addCleanup(gc.garbage.clear)
        self.addCleanup(gc.set_debug, 0)
        gc.collect()
        left = {type(each).__qualname__ for each in gc.garbage if type(each).__module__.startswith("relayd.")}
        self.assertLessEqual(left, {"_OneTransport"})  # is of a circle of Twisted's, and holds nothing any more

    async def test_done(self) -> None:
        await self.check(self.target(await self.start_server()))

    async def test_a_command_that_is_ended(self) -> None:
        target = self.target(await self.start_server())
        await self.check(target, command="sleep 30", seconds=0.5)
        await self.check(target, command="cd / ; sleep 30 & wait", seconds=0.5)

    async def test_a_command_with_the_words_of_a_closed_account(self) -> None:
        words = "This account is currently not available."
        await self.check(self.target(await self.start_server()), command=f"echo '{words}'; exit 1")

    async def test_connections_that_are_closed(self) -> None:
        await self.check(self.target(await self.start_server()), idle_timeout=0.2)

    async def test_connections_behind_a_jump_host(self) -> None:
        via = self.target(await self.start_server())
        await self.check(self.target(await self.start_server(), via=via), idle_timeout=0.2)

    async def test_no_connection(self) -> None:
        await self.check(Target("127.0.0.1", 1, "somebody", Credential(password=fresh("not so secret"))))

    async def test_no_connection_behind_a_jump_host(self) -> None:
        via = self.target(await self.start_server())
        await self.check(Target("127.0.0.1", 1, "somebody", Credential(password=fresh("not so secret")), via=via))

    async def test_a_refused_login(self) -> None:
        server = await self.start_server()
        await self.check(*(self.target(server, password=fresh(f"wrong {number}")) for number in range(4)))
