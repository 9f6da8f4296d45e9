"""
Logging in at real servers that ask for passwords through PAM, and for more than one proof.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from relayd.ssh.errors import LoginRefused, PasswordExpired
from tests.support.account import ensure_expired_account
from tests.support.authority import SSHAgent
from tests.support.ssh import ServerTestCase
from tests.support.sshd import OpenSSHServer, make_key

PAM = ("UsePAM yes", "KbdInteractiveAuthentication yes")


class LoginServerTestCase(ServerTestCase):
    """One command at a server."""

    async def check(self, server: OpenSSHServer, **credential: Any) -> None:
        done = await self.run_command(self.make_client(), self.target(server, **credential), "echo ok")
        self.assertEqual((done.stdout.text(), done.exit.status), ("ok", 0))

    def accepted(self, server: OpenSSHServer) -> list[str]:
        """The methods that the server accepted, in its words; the last part ends the login."""
        words = [line.split() for line in server.log_lines if line.startswith(("Accepted ", "Partial "))]
        return [line[1] for line in words if line[1] != "key"]

    def _said_as_often(self, server: OpenSSHServer, times: int) -> bool:
        return len(self.accepted(server)) >= times

    async def failed(self, server: OpenSSHServer, words: str) -> int:
        """How often the server logged *words*, once it did, and once it knows that we left."""

        def count(words: str) -> int:
            return len([line for line in server.log_lines if words in line])

        await self.until(lambda: count(words) and count("[preauth]"), f"the server logged {words}")
        return count(words)


class PAMTests(LoginServerTestCase):
    """Keyboard-interactive, with PAM behind it."""

    async def test_password(self) -> None:
        server = await self.start_server(*PAM, "PasswordAuthentication no", "PubkeyAuthentication no")
        await self.check(server, password=server.password)
        self.assertEqual(self.accepted(server), ["keyboard-interactive/pam"])

    async def test_wrong_password(self) -> None:
        server = await self.start_server(*PAM, "PasswordAuthentication no")
        target = self.target(server, password="wr0ng-password")
        error = await self.error_of(self.run_command(self.make_client(), target, "true"), LoginRefused)
        self.assertIn("tried keyboard-interactive;", str(error))
        self.assertEqual(await self.failed(server, "PAM: Authentication failure"), 1)

    async def test_wrong_password_is_sent_once_where_both_ways_are_offered(self) -> None:
        server = await self.start_server(*PAM)
        target = self.target(server, password="wr0ng-password")
        await self.error_of(self.run_command(self.make_client(), target, "true"), LoginRefused)
        self.assertEqual(await self.failed(server, "Failed password"), 1)
        self.assertFalse([line for line in server.log_lines if "PAM: Authentication failure" in line])

    async def test_expired(self) -> None:
        account = ensure_expired_account()
        server = await self.start_server(*PAM, "PasswordAuthentication no", f"AllowUsers {account.user}")
        target = self.target(server, username=account.user, password=account.password)
        error = await self.error_of(self.run_command(self.make_client(), target, "true"), PasswordExpired)
        self.assertIn(account.user, str(error))


class SeveralTests(LoginServerTestCase):
    """AuthenticationMethods with two parts."""

    async def test_each_order(self) -> None:
        for methods in (
            "publickey,password",
            "password,publickey",
            "publickey,keyboard-interactive",
            "keyboard-interactive,publickey",
            "password,keyboard-interactive",
            "keyboard-interactive,password",
            "publickey,password publickey,keyboard-interactive",
            "publickey,keyboard-interactive,password",
        ):
            server = await self.start_server(*PAM, f"AuthenticationMethods {methods}")
            await self.check(server, private_key=server.key, password=server.password)
            expected = [name.replace("interactive", "interactive/pam") for name in methods.split()[0].split(",")]
            await self.until(partial(self._said_as_often, server, len(expected)), "the server's log has come")
            self.assertEqual(self.accepted(server), expected, server.log_lines)
            self.assertFalse([line for line in server.log_lines if line.startswith("Failed ")])
            await server.stop()

    async def test_two_keys(self) -> None:
        """Which a server takes for two proofs only when they are two keys."""
        ssh_agent = SSHAgent()
        self.addCleanup(ssh_agent.close)
        private, public = make_key("ecdsa")
        ssh_agent.add(private)
        server = await self.start_server("AuthenticationMethods publickey,publickey")
        server.authorize(public)
        await self.check(server, private_key=server.key, agent=ssh_agent.path)

    async def test_half_of_it(self) -> None:
        server = await self.start_server("AuthenticationMethods publickey,password")
        for credential, words in (
            ({"private_key": server.key}, "tried publickey; the server offers password"),
            (
                {"password": server.password},
                "tried nothing, as no method that the server offers fits the credential;",
            ),
            (
                {"private_key": server.key, "password": "wrong"},
                "tried publickey and password;",
            ),
        ):
            target = self.target(server, **credential)
            error = await self.error_of(self.run_command(self.make_client(), target, "true"), LoginRefused)
            self.assertIn(words, str(error))
