"""
No secret is written: a real relay is led down every way that goes wrong, with marked secrets, and then searched.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_ssh_private_key,
)
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relayd.hub import Hub, HubSettings
from relayd.wire.messages import Become, ExecuteCommand, Pty, Secret
from tests.support.again import run_again
from tests.support.canaries import Canaries
from tests.support.relays import ROOT, Relayd
from tests.support.sshd import OpenSSHServer, make_key

#: Texts that the fields of a command cannot be, made of a secret.
WRONG = (lambda mark: {"x": mark}, lambda mark: [mark], lambda mark: mark + "\0", lambda mark: "\0\ud800" + mark)
FIELDS = (
    "commandId", "serverId", "host", "port", "username", "password", "privateKey", "passphrase", "certificate",
    "hostKey", "command", "timeout", "extended", "cwd", "env", "stdin", "encoding", "stream", "via", "pty", "become",
    "script", "interpreter", "args", "files", "fetch",
)  # fmt: skip
FORMATS = {
    "openssh": "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----",
    "pkcs8": "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
    "encrypted": "-----BEGIN ENCRYPTED PRIVATE KEY-----\n{}\n-----END ENCRYPTED PRIVATE KEY-----",
    "pkcs1": "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
    "dek": "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: {0},{0}\n\n{0}\n"
    "-----END RSA PRIVATE KEY-----",
    "putty": "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: {0}\nComment: {0}\nPublic-Lines: 1\n{0}\n"
    "Private-Lines: 1\n{0}\nPrivate-MAC: {0}\n",
    "none": "{}",
    "public": "ssh-{0} AAAA{0} {0}",
    "path": "/home/{0}/.ssh/{0}",
    "age": "AGE-SECRET-KEY-1{}",
    "label": "-----BEGIN {0} PRIVATE KEY-----\n{0}\n-----END {0} PRIVATE KEY-----",
    "twice": "-----BEGIN PRIVATE KEY-----\\\\n{}\\\\n-----END PRIVATE KEY-----",
    "cut": "-----BEGIN RSA PRIVATE KEY-----\n{}",
}


class SecretsCase(TestCase):
    """Every test has its own relay; secrets of the site are in a directory of their own."""

    timeout = 110
    dialect = "native"

    async def begin(self, toml: str = "", *options: str) -> None:
        self.canaries = Canaries()
        self.canaries.add("API key", Relayd.api_key)
        self.ids = count(1)
        self.answers: list[str] = []
        self.site = Path(tempfile.mkdtemp(prefix="relayd-test-secrets-"))
        self.addCleanup(shutil.rmtree, self.site)
        self.sshd, self.other = OpenSSHServer(), OpenSSHServer()
        for server in (self.sshd, self.other):
            await server.start()
            self.addCleanup(server.stop)
        self.canaries.add("key that is let in", self.sshd.key.splitlines()[3])
        self.canaries.add("password of the account", self.sshd.password)
        self.hub = Hub(reactor, {Relayd.proxy_id: Secret(Relayd.api_key)}, HubSettings(grace=5))
        self.addCleanup(lambda: Deferred.fromCoroutine(self.hub.close()))
        port: Any = await self.hub.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
        self.url = f"ws://127.0.0.1:{port.getHost().port}"
        self.relay = Relayd(
            self.url, "--dialect", self.dialect, "--idle-timeout", "1s", "--drain-timeout", "1s",
            "--config", str(self.site / "relayd.toml"), *options,
        )  # fmt: skip
        self.addCleanup(self.relay.remove)
        (self.site / "relayd.toml").write_text(self.site_credentials() + toml)
        (self.relay.directory / "known_hosts").write_text(f"[127.0.0.1]:{self.other.port} {make_key()[1]}\n")
        self.holdings = self.site / "held"
        path = os.pathsep.join((str(ROOT / "tests/support/held"), str(ROOT)))
        self.relay.start(PYTHONPATH=path, HELD_FILE=str(self.holdings))
        await self.hub.when_connected(Relayd.proxy_id)
        self.proc = Path(f"/proc/{self.relay.pid}")

    def site_credentials(self) -> str:
        """One that no host takes, and others whose files hold what they should not."""
        tables = []
        contents = {
            "site-password": ("password-file", self.canaries.mark("password of the site")),
            "site-key": ("key-file", FORMATS["openssh"].format(self.canaries.mark("key of the site"))),
            "site-none": ("key-file", self.canaries.mark("no key of the site")),
        }
        for user, (option, content) in contents.items():
            path = self.site / user
            path.touch(mode=0o600)
            path.write_text(content)
            tables.append(f'[[credentials]]\nhosts = ["127.0.0.1"]\nusers = ["{user}"]\n{option} = "{path}"\n')
        return "\n".join(tables)

    async def execute(self, **changes: Any) -> None:
        """Have one command run that is valid, and keep what is said of it."""
        fields: dict[str, Any] = {
            "command_id": f"c{next(self.ids)}", "server_id": 1, "host": self.sshd.host, "port": self.sshd.port,
            "username": self.sshd.user, "command": "true", "private_key": Secret(self.sshd.key), "timeout": 20,
        }  # fmt: skip
        try:
            result = await self.hub.execute(Relayd.proxy_id, ExecuteCommand(**fields | changes))
        except Exception as error:
            self.answers.append(str(error))
        else:
            self.answers.append(f"{result.stdout} {result.stderr} {result.details}")

    def send(self, data: object, event: str = "execute_command") -> None:
        """Send what may be wrong."""
        text = json.dumps({"event": event, "data": data} if self.dialect == "native" else [event, data])
        self.send_text(text if self.dialect == "native" else "42/proxy,9" + text)

    def send_text(self, text: str) -> None:
        self.hub.relays[Relayd.proxy_id].sendMessage(text.encode(), False)

    def secret(self, name: str) -> Secret:
        return Secret(self.canaries.mark(name))

    def assertNothingWritten(self) -> None:
        """Logs and standard streams, answers, files, command line and environment."""
        places = {"log": self.relay.log.encode(), "answers": "\n".join(self.answers).encode()}
        places |= {name: (self.proc / name).read_bytes() for name in ("cmdline", "environ") if self.proc.exists()}
        for path in self.relay.directory.rglob("*"):
            if path.is_file() and path.name != "api-key":
                places[path.name] = path.read_bytes()
        self.assertIn("known_hosts", places)
        if self.proc.exists():
            self.assertRegex((self.proc / "limits").read_text(), r"Max core file size +0 +0 ")
        self.assertGreater(len(self.relay.output), 5)
        self.assertEqual(
            [(place, found) for place, data in places.items() if (found := self.canaries.found_in(data))], []
        )


class CommandTests(SecretsCase):
    """What the main server sends."""

    async def wrong_commands(self) -> None:
        base = {"commandId": "x", "serverId": 1, "host": "127.0.0.1", "port": 1, "username": "u", "command": "true"}
        for field in FIELDS:
            for index, make in enumerate(WRONG):
                secrets = {name: self.canaries.mark(f"{name} beside {field} {index}") for name in ("password", "stdin")}
                # An id is no secret: a result, and the log, name it as far as it can be named.
                wrong = make("id" if field == "commandId" else self.canaries.mark(f"{field}, wrong type {index}"))
                self.send(base | secrets | {"commandId": f"x{next(self.ids)}", field: wrong})
            hop = {"host": "h", "username": "u", field: {"x": self.canaries.mark(f"{field} of a hop")}}
            self.send(base | {"via": [hop]})
        for name in ("command_result_received", "cancel_command", "command_status", "something_else"):
            self.send({"success": self.canaries.mark(f"success of {name}"), "commandId": {"x": 1}}, name)
        self.send({"success": True, "x": self.canaries.mark("receipt")}, "command_result_received")
        await self.execute()

    async def failing_commands(self) -> None:
        await self.execute(private_key=None, password=self.secret("wrong password"), username="nobody-1")
        await self.execute(password=self.secret("password beside a key that works"))
        for index, (name, form) in enumerate(FORMATS.items()):
            key = Secret(form.format(self.canaries.mark(f"malformed key: {name}")))
            await self.execute(private_key=key, passphrase=self.secret(f"its passphrase: {name}"), username=f"k{index}")
        pem = ed25519.Ed25519PrivateKey.generate()
        encrypted = pem.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, BestAvailableEncryption(b"right")).decode()
        self.canaries.add("encrypted key", encrypted.splitlines()[2])
        await self.execute(private_key=Secret(encrypted), passphrase=self.secret("wrong passphrase"))
        await self.execute(certificate="ssh-ed25519-cert-v01@openssh.com " + self.canaries.mark("certificate"))
        for user in ("site-password", "site-key", "site-none"):
            await self.execute(private_key=None, username=user)
        await self.execute(port=1, password=self.secret("host refuses"), private_key=None)
        await self.execute(port=self.other.port, password=self.secret("host key changed"), private_key=None)
        await self.execute(host_key="SHA256:" + "A" * 43, password=self.secret("another host key"), private_key=None)

    async def running_commands(self) -> None:
        mark = self.canaries.mark
        await self.execute(
            command=f": {mark('command')}; exit 3", stdin=mark("stdin").encode(), env=(("A", mark("env")),)
        )
        await self.execute(command=f"sleep 9; : {mark('command that times out')}", timeout=1, extended=True)
        await self.execute(command=f"kill -9 $$; {mark('command that is killed')}")
        for pty in (None, Pty()):
            become = Become(method="su", password=self.secret(f"wrong password of root, terminal {pty}"))
            await self.execute(become=become, pty=pty, extended=True)
        await self.execute(become=Become(password=self.secret("wrong password for sudo")), extended=True)
        late = self.execute(command=f"sleep 3; : {mark('command')}", command_id="d", password=self.secret("first"))
        first = Deferred.fromCoroutine(late)
        await deferLater(reactor, 1)
        for changes in ({}, {"command": f": {mark('another command')}"}, {"stdin": mark("another stdin")}):
            order = {"commandId": "d", "serverId": 1, "host": self.sshd.host, "port": self.sshd.port, "command": "true"}
            self.send(order | {"username": self.sshd.user, "password": mark(f"duplicate {changes.keys()}")} | changes)
        await DeferredList([first])

    async def broken_frames(self) -> None:
        for text in ('{{"event":"execute_command","data":{{"password":"{}"', '{{"a":"{}\ud83d"}}', "[{}]", "{}"):
            self.send_text(text.format(self.canaries.mark(f"frame {text}")).encode("utf-8", "replace").decode())
            await deferLater(reactor, 0.5)
            await self.hub.when_connected(Relayd.proxy_id)
        await self.execute()

    async def ended(self) -> None:
        self.assertNothingWritten()
        await self.relay.signal(signal.SIGTERM)
        self.assertNothingWritten()
        self.assertNotIn("Traceback", self.relay.log)

    async def test_native(self) -> None:
        await self.begin("", "--reconnect-delay", "1s")
        await self.wrong_commands()
        await self.failing_commands()
        await self.running_commands()
        await self.broken_frames()
        await self.ended()

    async def test_socketio(self) -> None:
        self.dialect = "socketio"
        await self.begin("", "--reconnect-delay", "1s")
        await self.wrong_commands()
        await self.broken_frames()
        await self.ended()

    async def held(self, names: Sequence[str]) -> list[str]:
        """Which of these secrets something in the relay refers to."""
        self.holdings.unlink(missing_ok=True)
        os.kill(self.relay.pid, signal.SIGUSR2)
        while not self.holdings.exists():
            await deferLater(reactor, 0.05)
        return self.canaries.found_in(self.holdings.read_bytes(), names)

    async def forgotten(self, names: Sequence[str]) -> None:
        """Wait until nothing refers to them: garbage of objects that refer to each other is collected every 10 s."""
        left = await self.held(names)
        for _ in range(40):
            if not left:
                return
            await deferLater(reactor, 1)
            left = await self.held(names)
        self.fail(f"still held: {left}")

    async def test_memory(self) -> None:
        """Nothing of relayd holds on to a password when its command has ended."""
        await self.begin()
        names = [f"password {number}" for number in range(40)]
        for name in names:
            await self.execute(private_key=None, password=self.secret(name), username=name.replace(" ", ""), port=1)
        for number, changes in enumerate(({"port": 1}, {"timeout": 1}, {"pty": Pty()}, {"env": (("A", "b"),)})):
            names.append(f"password of root {number}")
            await self.execute(become=Become(method="su", password=self.secret(names[-1])), **changes)
        await self.forgotten(names)

    async def test_memory_of_logins(self) -> None:
        """
        The same of logins that happen: keys that a real server lets in, keys and passwords that it refuses.

        The relay remembers which logins were refused and accepted, and keeps keys parsed while they are used.
        """
        await self.begin()
        names = []
        for number in range(12):
            private, public = make_key()
            self.sshd.authorize(public)
            seed = load_ssh_private_key(private.encode(), None).private_bytes_raw()  # type: ignore[union-attr]
            names += [f"accepted key {number}", f"accepted key {number}, parsed"]
            self.canaries.add(names[-2], private.splitlines()[3])
            self.canaries.add(names[-1], seed)
            await self.execute(private_key=Secret(private), extended=True)
        self.assertEqual([answer.split("executed")[0] for answer in self.answers if "error=None" not in answer], [])
        for number in range(9):  # the host itself would rest at ten
            names.append(f"refused password {number}")
            await self.execute(private_key=None, password=self.secret(names[-1]))
        self.assertEqual(len([answer for answer in self.answers if "refused the login" in answer]), 9)
        # What is held is found: keys are kept for ten seconds, and what a command that runs needs.
        private, public = make_key()
        self.sshd.authorize(public)
        used = ["key in use", "key in use, parsed"]
        self.canaries.add(used[0], private.splitlines()[3])
        self.canaries.add(used[1], load_ssh_private_key(private.encode(), None).private_bytes_raw())  # type: ignore[union-attr]
        running = Deferred.fromCoroutine(self.execute(private_key=Secret(private), command="echo; sleep 4"))
        await deferLater(reactor, 2)
        self.assertEqual(await self.held(used), used)
        await running
        await self.forgotten([*names, *used])


class OperatorTests(SecretsCase):
    """What the operator has set up."""

    async def test_proxy(self) -> None:
        """Its password goes to the proxy, which is none here, and nowhere else."""
        await self.begin()
        mark = self.canaries.mark("password of the proxy")
        proxy = self.url.replace("ws://", f"http://user:{mark}@")
        (self.site / "proxy.toml").write_text(f'http-proxy = "{proxy}"\n')
        await self.fails_to_connect("--config", str(self.site / "proxy.toml"))

    async def test_encrypted_tls_key(self) -> None:
        await self.begin()
        key = ed25519.Ed25519PrivateKey.generate()
        text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")).decode()
        self.canaries.add("TLS key", text.splitlines()[2])
        path = self.site / "tls.pem"
        path.touch(mode=0o600)
        path.write_text(text)
        await self.fails_to_connect("--tls-cert", str(path), "--tls-key", str(path))

    async def fails_to_connect(self, *options: str) -> None:
        relay = Relayd("wss://127.0.0.1:1", *options)
        self.addCleanup(relay.remove)
        relay.start()
        while "Next attempt in" not in relay.log:
            await deferLater(reactor, 0.05)
        self.assertEqual(self.canaries.found_in(relay.log.encode()), [])


class MistakeTests(SynchronousTestCase):
    """A secret in the wrong place: the process ends with a line, and the secret is not in it."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="relayd-test-secrets-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.canaries = Canaries()
        self.mark = self.canaries.mark("secret")
        key = self.directory / "api-key"
        key.touch(mode=0o600)
        key.write_text(Relayd.api_key)
        self.usual = {
            "RELAYD_SERVER": "wss://127.0.0.1:1",
            "RELAYD_PROXY_ID": "p",
            "RELAYD_API_KEY_FILE": str(key),
            "RELAYD_STATE_DIR": str(self.directory),
            "PATH": os.environ["PATH"],
        }

    def check(self, *runs: tuple[Sequence[str], Mapping[str, str]]) -> None:
        """Options and environment of each run."""
        for code, said in run_again([(options, self.usual | environ) for options, environ in runs]):
            self.assertNotEqual(code, 0, said)
            self.assertEqual(self.canaries.found_in(said.encode()), [], said)
            self.assertNotIn("Traceback", said)

    def file(self, number: int, toml: str) -> str:
        path = self.directory / f"relayd-{number}.toml"
        path.write_text(toml)
        return str(path)

    def test_command_line(self) -> None:
        runs: tuple[list[str], ...] = (
            ["--api-key", self.mark],
            [f"--api-key={self.mark}"],
            ["--password", self.mark],
            ["--http-proxy", f"http://user:{self.mark}@proxy:99999"],
            ["--http-proxy", f"ftp://user:{self.mark}@proxy"],
            ["--server", f"https://user:{self.mark}@main:99999"],
            ["--server", f"ftp://user:{self.mark}@main"],
            ["--max-commands", self.mark],
            [self.mark],
        )
        self.check(*((options, {}) for options in runs))

    def test_environment(self) -> None:
        self.check(
            ((), {"RELAYD_HTTP_PROXY": f"http://user:{self.mark}@proxy:99999"}),
            ((), {"RELAYD_SERVER": f"https://main/?apiKey={self.mark}"}),
            ((), {"RELAYD_MAX_COMMANDS": self.mark}),
        )

    def test_file(self) -> None:
        table = '[[credentials]]\nhosts = ["h"]\n'
        files = (
            f'api-key = "{self.mark}"',
            f'password = "{self.mark}"',
            f'http-proxy = "http://user:{self.mark}@proxy:99999"',
            f'http-proxy = "http://user:{self.mark}',
            f'max-commands = "{self.mark}"',
            f"{self.mark}",
            f'{table}password = "{self.mark}"',
            f'{table}key = """{self.mark}"""',
            f'{table}users = "{self.mark}"',
        )
        self.check(*((("--config", self.file(number, toml)), {}) for number, toml in enumerate(files)))
