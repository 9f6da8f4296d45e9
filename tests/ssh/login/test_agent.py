"""
Keys of an ssh-agent: a real one at a real server, and agents that are missing, locked, slow or mad.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.conch.ssh.common import NS
from twisted.conch.ssh.keys import Key
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.protocol import Factory
from twisted.protocols.basic import Int32StringReceiver

from relayd.ssh.errors import AgentUnusable, CertificateUnusable, LoginRefused
from relayd.ssh.login.agent import MAX_ANSWER, Agent, AgentError
from relayd.ssh.login.login import MAX_KEYS
from tests.support.account import USER
from tests.support.authority import Authority, SSHAgent
from tests.support.ssh import DEADLINE, ServerTestCase, blob_of, key_pair
from tests.support.sshd import OpenSSHServer, make_key

ALGORITHMS = {"ed25519": b"ssh-ed25519", "ecdsa": b"ecdsa-sha2-nistp256", "rsa": b"rsa-sha2-512"}


class AgentTestCase(ServerTestCase):
    """With a real agent."""

    def setUp(self) -> None:
        super().setUp()
        self.ssh_agent = SSHAgent()
        self.addCleanup(self.ssh_agent.close)
        self.agent = Agent(self.reactor, self.ssh_agent.path, DEADLINE)

    async def agent_error(self, asking: Any) -> str:
        return str(await self.error_of(Deferred.fromCoroutine(asking), AgentError))


class RealAgentTests(AgentTestCase):
    """OpenSSH's agent by itself."""

    async def test_keys_and_signatures(self) -> None:
        for kind in ALGORITHMS:
            self.ssh_agent.add(key_pair(kind)[0])
        keys = await self.agent.keys()
        self.assertEqual([key.blob for key in keys], [blob_of(key_pair(kind)[1]) for kind in ALGORITHMS])
        for key, algorithm in zip(keys, ALGORITHMS.values(), strict=True):
            signature = await self.agent.sign(key.blob, b"data", algorithm)
            self.assertTrue(signature.startswith(NS(algorithm)))
            self.assertTrue(Key.fromString(key.blob).verify(signature, b"data"))
        signature = await self.agent.sign(keys[2].blob, b"data", b"rsa-sha2-256")
        self.assertTrue(signature.startswith(NS(b"rsa-sha2-256")))

    async def test_empty(self) -> None:
        self.assertIn("no key, or is locked", await self.agent_error(self.agent.keys()))

    async def test_locked(self) -> None:
        self.ssh_agent.add(key_pair()[0])
        self.ssh_agent.lock()
        self.assertIn("no key, or is locked", await self.agent_error(self.agent.keys()))
        blob = blob_of(key_pair()[1])
        self.assertIn("refused", await self.agent_error(self.agent.sign(blob, b"data", b"ssh-ed25519")))

    async def test_a_key_that_it_does_not_hold(self) -> None:
        blob = blob_of(key_pair()[1])
        self.assertIn("refused", await self.agent_error(self.agent.sign(blob, b"data", b"ssh-ed25519")))

    async def test_no_socket(self) -> None:
        for path, words in (
            (self.ssh_agent.path + "x", os.strerror(2)),
            (str(self.directory / "a" / "b"), os.strerror(2)),
            (str(self.directory / ("a" * 200)), "too long"),
            ("a\0b", "socket cannot be used"),
        ):
            self.assertIn(words, await self.agent_error(Agent(self.reactor, path, DEADLINE).keys()))
        file = self.directory / "file"
        file.touch()
        self.assertIn(os.strerror(111), await self.agent_error(Agent(self.reactor, str(file), DEADLINE).keys()))


class _Scripted(Int32StringReceiver):
    """Answers each request with what a function makes of it; ``None``: not at all."""

    answer: Callable[[bytes], bytes | None]

    def stringReceived(self, string: bytes) -> None:
        answer = self.answer(string)
        if answer is None:
            return
        self.transport.write(answer)  # type: ignore[union-attr]
        if not answer:
            self.transport.loseConnection()  # type: ignore[union-attr]


async def listen(test: AgentTestCase, answer: Callable[[bytes], bytes | None]) -> str:
    """An agent that does what *answer* says: the path of its socket."""

    class Scripted(_Scripted):
        pass

    Scripted.answer = staticmethod(answer)  # type: ignore[assignment]
    path = str(Path(tempfile.mkdtemp(dir=test.directory)) / "agent")
    port = await UNIXServerEndpoint(test.reactor, path).listen(Factory.forProtocol(Scripted))
    test.addCleanup(port.stopListening)
    return path


class BadAgentTests(AgentTestCase):
    """Agents as they should not be."""

    async def script(self, answer: Callable[[bytes], bytes | None], timeout: float = DEADLINE) -> Agent:
        return Agent(self.reactor, await listen(self, answer), timeout)

    async def test_hangs(self) -> None:
        agent = await self.script(lambda _: None, 0.05)
        self.assertIn("did not answer within 50 ms", await self.agent_error(agent.keys()))

    async def test_hangs_up(self) -> None:
        agent = await self.script(lambda _: b"")
        self.assertIn("hung up", await self.agent_error(agent.keys()))

    async def test_talks_without_end(self) -> None:
        agent = await self.script(lambda _: (MAX_ANSWER + 1).to_bytes(4, "big") + b"x")
        self.assertIn("too long", await self.agent_error(agent.keys()))

    async def test_makes_no_sense(self) -> None:
        for answer in (b"", b"\x05", b"\x0c", b"\x0c\xff\xff\xff\xff", b"\x0c\xff\xff\xff\xffab", b"\xff" * 100):
            agent = await self.script(lambda _, answer=answer: NS(answer))  # type: ignore[misc]
            await self.agent_error(agent.keys())
            await self.agent_error(agent.sign(b"blob", b"data", b"ssh-ed25519"))

    async def test_knows_only_sha1(self) -> None:
        agent = await self.script(lambda _: NS(b"\x0e" + NS(NS(b"ssh-rsa") + NS(b"signature"))))
        self.assertIn("rsa-sha2-512", await self.agent_error(agent.sign(b"blob", b"data", b"rsa-sha2-512")))

    async def test_refuses_to_sign_at_login(self) -> None:
        """Another key of it is tried then."""
        first, second = blob_of(key_pair()[1]), blob_of(key_pair("ecdsa")[1])
        key = Key.fromString(key_pair("ecdsa")[0].encode())

        def answer(request: bytes) -> bytes:
            if request[0] == 11:
                return NS(b"\x0c\0\0\0\2" + NS(first) + NS(b"") + NS(second) + NS(b""))
            if request[1:].startswith(NS(first)):
                return NS(b"\x05")
            data = request[1 + len(NS(second)) + 4 : -4]
            return NS(b"\x0e" + NS(key.sign(data)))

        path = await listen(self, answer)
        server = await self.start_server("PasswordAuthentication no")
        server.authorize(key_pair()[1], key_pair("ecdsa")[1])
        done = await self.run_command(self.make_client(), self.target(server, agent=path), "echo ok")
        self.assertEqual(done.stdout.text(), "ok")


class LoginTests(AgentTestCase):
    """At a real server."""

    async def check(self, server: OpenSSHServer, **credential: Any) -> None:
        done = await self.run_command(
            self.make_client(), self.target(server, agent=self.ssh_agent.path, **credential), "echo ok"
        )
        self.assertEqual((done.stdout.text(), done.exit.status), ("ok", 0))

    async def test_every_type(self) -> None:
        server = await self.start_server("PasswordAuthentication no")
        for kind in ALGORITHMS:
            ssh_agent = SSHAgent()
            self.addCleanup(ssh_agent.close)
            private, public = make_key(kind)
            ssh_agent.add(private)
            server.authorize(public)
            target = self.target(server, agent=ssh_agent.path)
            done = await self.run_command(self.make_client(), target, "echo ok")
            self.assertEqual(done.stdout.text(), "ok")

    async def test_certificate(self) -> None:
        authority = Authority()
        self.addCleanup(authority.close)
        self.directory.chmod(0o755)
        trusted = self.directory / "authority.pub"
        trusted.write_text(authority.public + "\n")
        server = await self.start_server(f"TrustedUserCAKeys {trusted}", "PasswordAuthentication no")
        for kind in ALGORITHMS:
            ssh_agent = SSHAgent()
            self.addCleanup(ssh_agent.close)
            private, public = make_key(kind)
            certificate = authority.sign(public, "-n", USER)
            ssh_agent.add(private, certificate)
            target = self.target(server, agent=ssh_agent.path)
            done = await self.run_command(self.make_client(), target, "echo ok")
            self.assertEqual(done.stdout.text(), "ok")
        # One that the agent does not hold, of a key that it does
        private, public = make_key()
        self.ssh_agent.add(private)
        await self.check(server, certificate=authority.sign(public, "-n", USER))
        other = authority.sign(make_key()[1], "-n", USER)
        target = self.target(server, agent=self.ssh_agent.path, certificate=other)
        error = await self.error_of(self.run_command(self.make_client(), target, "true"), CertificateUnusable)
        self.assertIn("the agent does not hold", str(error))

    async def test_one_of_several(self) -> None:
        server = await self.start_server("PasswordAuthentication no")
        for _ in range(MAX_KEYS - 1):
            self.ssh_agent.add(make_key()[0])
        self.ssh_agent.add(server.key)
        await self.check(server)

    async def test_the_key_that_was_given_comes_first(self) -> None:
        server = await self.start_server("PasswordAuthentication no", "MaxAuthTries 1")
        self.ssh_agent.add(make_key()[0])
        await self.check(server, private_key=server.key)

    async def test_a_password_after_more_keys_than_the_server_bears(self) -> None:
        server = await self.start_server()
        for _ in range(8):
            self.ssh_agent.add(make_key()[0])
        await self.check(server, password=server.password)

    async def test_refused(self) -> None:
        server = await self.start_server("PasswordAuthentication no")
        for _ in range(8):
            self.ssh_agent.add(make_key()[0])
        target = self.target(server, agent=self.ssh_agent.path)
        error = await self.error_of(self.run_command(self.make_client(), target, "true"), LoginRefused)
        self.assertIn("publickey from the agent (only the first 5 of 8 keys", str(error))

    async def test_of_no_use(self) -> None:
        server = await self.start_server()
        target = self.target(server, agent=self.ssh_agent.path)
        error = await self.error_of(self.run_command(self.make_client(), target, "true"), AgentUnusable)
        self.assertIn(f"{self.ssh_agent.path} cannot be used for {USER}@127.0.0.1: it holds no key", str(error))
        self.assertFalse([line for line in server.log_lines if line.startswith("Connection from")])
        # Beside others
        await self.check(server, password=server.password)
        await self.check(server, private_key=server.key)
        target = self.target(server, agent=self.ssh_agent.path, private_key=make_key()[0])
        error = await self.error_of(self.run_command(self.make_client(), target, "true"), LoginRefused)
        self.assertIn("holds no key", str(error))

    async def test_hangs_during_the_login(self) -> None:
        blob = blob_of(key_pair()[1])

        def answer(request: bytes) -> bytes | None:
            return NS(b"\x0c\0\0\0\1" + NS(blob) + NS(b"")) if request[0] == 11 else None

        path = await listen(self, answer)
        server = await self.start_server("PasswordAuthentication no")
        server.authorize(key_pair()[1])
        target = self.target(server, agent=path)
        client = self.make_client(connect_timeout=2.0)
        error = await self.error_of(self.run_command(client, target, "true"), LoginRefused)
        self.assertIn("did not sign: it did not answer within 1 s", str(error))
