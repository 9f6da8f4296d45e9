"""
Every command line of the documents is run, page by page and in order, with real peers where the page has some.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from relayd.audit.key import key_file, read_key
from relayd.hub import Hub
from relayd.wire.messages import CommandOutput, CommandResult, ExecuteCommand, Secret
from tests.peers.test_tls import ProxyFactory
from tests.support import auditing
from tests.support.built import built, installed
from tests.support.certificates import Authority, Certificate
from tests.support.pages import ROOT, Block, Shell, Step, blocks_of, programs_of
from tests.support.sshd import OpenSSHServer, free_port
from tests.support.watched import ROUND_TRIP, Watched

BIN = Path(sys.executable).parent
INSTALL = f"{sys.executable} {ROOT / 'tests' / 'support' / 'install.py'}"


class PageTestCase(TestCase):
    """Runs pages, as somebody does who has cloned the repository and has ``~/relayd`` from `docs/tutorial.rst`."""

    timeout = 300

    async def open(self, **environ: str) -> Path:
        """A home; its commands are run in it. All events of relays and main servers are checked."""
        watched = Watched()
        self.addCleanup(self.check_events, watched)  # once all processes have ended
        environ |= watched.environ
        self.shell = Shell(reactor, self.replace, {"PATH": f"{BIN}:{os.environ['PATH']}", **environ})
        self.addCleanup(self.shell.close)
        (self.shell.home / "api-key").write_text("key-of-a-page-" * 4 + "\n")
        return self.shell.home

    def setUp(self) -> None:
        self.replace: dict[str, str] = {}
        #: Events that the relays of the page have to have had.
        self.expected: frozenset[str] = frozenset()

    def check_events(self, watched: Watched) -> None:
        """Each fits its schema."""
        events, faults = watched.finish()
        self.assertEqual((faults, self.expected - events), ([], set()))

    async def run_page(self, name: str) -> None:
        for block in blocks_of(ROOT / name):
            await self.before(block)
            await self.shell.run(block)

    async def before(self, block: Block) -> None:
        """What has to happen before a block is run."""

    async def serve(self, key_file: Path, certificate: Certificate | None = None) -> int:
        """A main server on loopback, with the key that the page makes, with TLS or without; gives its port."""
        self.hub = hub = Hub(reactor, lambda _: Secret(key_file.read_text().strip()))
        self.addCleanup(lambda: Deferred.fromCoroutine(hub.close()))
        tls = "tcp" if certificate is None else f"ssl:privateKey={certificate.key}:certKey={certificate.cert}"
        port = await hub.listen(serverFromString(reactor, f"{tls}:port=0:interface=127.0.0.1"))
        return int(port.getHost().port)

    async def start_sshd(self) -> OpenSSHServer:
        sshd = OpenSSHServer()
        await sshd.start()
        self.addCleanup(sshd.stop)
        return sshd

    def order(
        self,
        sshd: OpenSSHServer,
        command_id: str,
        command: str,
        on_output: Callable[[CommandOutput], None] | None = None,
    ) -> Deferred[CommandResult]:
        """Have the relay ``site-1`` run a command."""
        order = ExecuteCommand(
            command_id=command_id,
            server_id=1,
            host=sshd.host,
            port=sshd.port,
            username=sshd.user,
            private_key=Secret(sshd.key),
            command=command,
        )
        return self.hub.execute("site-1", order, on_output=on_output)

    async def install_from_wheel(self) -> None:
        """And not from a registry; what pip does to it, it has done once for all pages."""
        environment = await deferToThread(installed)
        self.replace["python3 -m venv ~/relayd"] = f"{sys.executable} -m venv --without-pip ~/relayd"
        self.replace["~/relayd/bin/pip install ."] = f"{INSTALL} ~/relayd {environment}"

    def clone(self, to: Path) -> None:
        """A copy of the tree, with the environment of this one, and what bootstrap.sh has fetched."""
        shutil.copytree(built().source, to, dirs_exist_ok=True)
        (to / ".venv").mkdir()
        for name in ("bin", "lib", "pyvenv.cfg"):
            (to / ".venv" / name).symlink_to(BIN.parent / name)
        (to / ".venv" / "installed").touch()
        (to / "build").mkdir(exist_ok=True)
        for name in ("tests/node/node_modules", "build/promtool", "build/fakenos", "build/peers"):
            if (ROOT / name).exists():  # or else it is fetched anew: through a link to nothing it cannot be
                (to / name).symlink_to(ROOT / name)


class TutorialTests(PageTestCase):
    """A second machine is a real sshd."""

    async def second_machine(self) -> Path:
        """A home with a key for it, and ``~/relayd``."""
        self.expected = ROUND_TRIP
        sshd = await self.start_sshd()
        await self.install_from_wheel()
        self.port = port = free_port()
        place, user = f"{sshd.host}:{sshd.port}", sshd.user
        self.replace |= {
            "http://127.0.0.1:8765": f"http://127.0.0.1:{port}",
            "ws://127.0.0.1:8765": f"ws://127.0.0.1:{port}",
            "tcp:8765:": f"tcp:{port}:",
            "-m relayd.hub": f"-m relayd.hub --listen tcp:{port}:interface=127.0.0.1",
            "ssh -i ~/.ssh/id_ed25519 deploy@192.168.1.20": f"ssh -i ~/.ssh/id_ed25519 -p {sshd.port} "
            f"-o StrictHostKeyChecking=no -o LogLevel=ERROR {user}@{sshd.host}",
            "deploy@192.168.1.20": f"{user}@{place}",
            "deploy@192.168.1.20:1": f"{user}@{sshd.host}:1",
            "192.168.1.20:1 ": f"{sshd.host}:1 ",
            "192.168.1.20:22": place,
            "nobody@192.168.1.20": f"nobody@{place}",
        }
        home = await self.open()
        key = home / ".ssh" / "id_ed25519"
        key.parent.mkdir(mode=0o700)
        key.touch(mode=0o600)
        key.write_text(sshd.key)
        return home

    async def test_tutorial(self) -> None:
        await self.second_machine()
        await self.run_page("docs/tutorial.rst")

    async def test_main_server(self) -> None:
        """The programs, too, are those of the page."""
        page = ROOT / "docs" / "howto" / "main-server.rst"
        home = await self.second_machine()
        self.shell.replace(":8765", f":{self.port}")
        self.shell.replace(" 8765", f" {self.port}")
        self.shell.replace("npm install socket.io", f"ln -s {ROOT / 'tests' / 'node' / 'node_modules'}")
        install = ("python3 -m venv ~/relayd", "~/relayd/bin/pip install .")
        await self.shell.run(Block("", tuple(Step("$", line, "") for line in install), 0))
        for name, text in programs_of(page).items():
            (home / name).write_text(text)
        await self.run_page("docs/howto/main-server.rst")


class MigrationTests(PageTestCase):
    """First the page's own main server on npm's socket.io; then the one that the old script has."""

    async def test_migrate(self) -> None:
        self.expected = ROUND_TRIP
        sshd = await self.start_sshd()
        await self.install_from_wheel()
        place, user = f"{sshd.host}:{sshd.port}", sshd.user
        self.replace |= {
            "npm install socket.io": f"ln -s {ROOT / 'tests' / 'node' / 'node_modules'} node_modules",
            "3080": str(free_port()),
            "deploy@192.168.1.20": f"{user}@{place}",
            "nobody@192.168.1.20": f"nobody@{place}",
        }
        home = await self.open(API_KEY="key-of-a-page-" * 4)
        self.shell.environ["RELAYD_STATE_DIR"] = str(home / "state")
        key = home / ".ssh" / "id_ed25519"
        key.parent.mkdir(mode=0o700)
        key.touch(mode=0o600)
        key.write_text(sshd.key)
        port = await self.serve(home / "relayd" / "api-key")
        self.shell.replace("https://main.example.com", f"http://127.0.0.1:{port}")
        await self.run_page("docs/howto/migrate.zh.rst")


class ReadmeTests(PageTestCase):
    """In a clone of the repository."""

    async def run_readme(self, name: str) -> None:
        await self.install_from_wheel()
        home = await self.open()
        self.shell.environ["RELAYD_STATE_DIR"] = str(home / "state")
        self.clone(home)
        port = await self.serve(home / "relayd" / "api-key")
        self.shell.replace("wss://main.example.com", f"ws://127.0.0.1:{port}")
        await self.run_page(name)

    async def test_english(self) -> None:
        await self.run_readme("README.rst")

    async def test_chinese(self) -> None:
        await self.run_readme("README.zh.rst")

    async def test_contributing(self) -> None:
        """Its tests are of one module: a single process runs them as well as four."""
        await self.install_from_wheel()
        self.clone(await self.open(JOBS="1"))
        await self.run_page("CONTRIBUTING.rst")


class HowToTests(PageTestCase):
    """docs/howto."""

    async def test_proxy(self) -> None:
        proxy = ProxyFactory()
        listening = reactor.listenTCP(0, proxy, interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        self.replace["http://proxy.example.com:3128"] = f"http://127.0.0.1:{listening.getHost().port}"
        authority = Authority(Path(self.mktemp()).resolve())
        home = await self.open(RELAYD_TLS_CA=authority.path)
        port = await self.serve(home / "api-key", authority.issue("main.example.com"))
        self.shell.replace("wss://main.example.com", f"wss://main.example.com:{port}")
        await self.run_page("docs/howto/proxy.rst")
        self.assertTrue(proxy.requests[0].startswith(f"CONNECT main.example.com:{port} "), proxy.requests)

    async def test_own_ca(self) -> None:
        self.replace |= {"main.example.com": "localhost", "8765": str(free_port())}
        await self.open()
        await self.run_page("docs/howto/own-ca.rst")

    async def test_restrict_hosts(self) -> None:
        await self.open()
        await self.run_page("docs/howto/restrict-hosts.rst")

    async def test_odd_hosts(self) -> None:
        await self.open()
        await self.run_page("docs/howto/odd-hosts.rst")

    async def test_rotate_api_key(self) -> None:
        before = (await self.open()) / "api-key"
        text = before.read_text()
        await self.run_page("docs/howto/rotate-api-key.rst")
        self.assertNotEqual(before.read_text(), text)

    async def test_upgrade(self) -> None:
        await self.install_from_wheel()
        home = await self.open()
        self.clone(home)
        await deferToThread(os.system, f"{sys.executable} -m venv --without-pip {home / 'relayd'}")
        await self.run_page("docs/howto/upgrade.rst")


class RunningTests(PageTestCase):
    """Pages about a relay that is running, and has run commands."""

    async def start(self, *options: str) -> None:
        """A main server, an SSH server, and the relay ``site-1`` with the files ``relayd.toml`` and ``relayd.log``."""
        home = await self.open()
        port = await self.serve(home / "api-key")
        self.sshd = await self.start_sshd()
        self.shell.replace("wss://main.example.com", f"ws://127.0.0.1:{port}")
        settings = f'server = "ws://127.0.0.1:{port}"\nproxy-id = "site-1"\nstate-dir = "state"\n'
        (home / "relayd.toml").write_text(f'{settings}api-key-file = "api-key"\nstatus = "unix:{home}/status"\n')
        line = f"twistd -n --pidfile= relayd --config relayd.toml {' '.join(options)} > >(tee relayd.log)"
        await self.shell.run(Block('as relay, until "Connected to"', (Step("$", line, ""),), 0))
        await self.hub.when_connected("site-1")

    def begun(self, command_id: str) -> Deferred[object]:
        """A command that stays; fires when it runs."""
        runs: Deferred[object] = Deferred()
        done = self.order(self.sshd, command_id, "echo runs; sleep 600", on_output=lambda _: runs.callback(None))
        done.addErrback(lambda _: None)
        return runs

    async def test_logs(self) -> None:
        await self.start("--log-format json --log-level debug")
        await self.order(self.sshd, "42", "true")
        await self.shell.run(Block("shown by relay", (Step("", "", '"event":"confirmed"'),), 0))
        await self.run_page("docs/logs.rst")

    async def test_status(self) -> None:
        await self.start()
        self.shell.replace("web-1.internal:22", f"{self.sshd.host}:{self.sshd.port}")
        for number, command in enumerate(("true", "uptime", "false", "df")):
            await self.order(self.sshd, f"c{number}", command)
        await gatherResults([self.begun(f"d{number}") for number in range(2)])
        await self.run_page("docs/metrics.rst")

    async def test_results(self) -> None:
        await self.start()
        self.shell.environ["RELAYD_CONFIG"] = str(self.shell.home / "relayd.toml")
        self.shell.replace("COMMAND_ID", "c1")
        await self.order(self.sshd, "c1", "true")
        await self.run_page("docs/results.rst")


class OperationsTests(PageTestCase):
    """docs/operations.rst: a daemon."""

    async def test_operations(self) -> None:
        home = await self.open()
        port = await self.serve(home / "api-key")
        settings = f'server = "ws://127.0.0.1:{port}"\nproxy-id = "site-1"\nstate-dir = "{home}/state"\n'
        (home / "relayd.toml").write_text(f'{settings}api-key-file = "api-key"\n')
        for example, real in {
            "/run/relayd/": f"{home}/",
            "/var/log/relayd/": f"{home}/",
            "/etc/relayd/": f"{home}/",
            "--uid relayd --gid relayd": f"--uid {os.getuid()} --gid {os.getgid()}",
        }.items():
            self.shell.replace(example, real)
        await self.run_page("docs/operations.rst")
        while (home / "relayd.pid").exists() or self.hub.relays:  # until it has ended
            await deferLater(reactor, 0.05)

    async def before(self, block: Block) -> None:
        """The daemon is not ended before it has come up."""
        if any(step.command.startswith("kill") for step in block.steps):
            await self.hub.when_connected("site-1")


class BackupTests(PageTestCase):
    """docs/howto/backup.rst: a daemon, whose files are below another root."""

    async def test_backup(self) -> None:
        home = await self.open()
        self.root = root = home / "root"
        port = await self.serve(home / "api-key")
        state, settings = root / "var/lib/relayd", root / "etc/relayd/relayd.toml"
        for directory in (settings.parent, root / "etc/default"):
            directory.mkdir(parents=True)
        self.link_state()
        (root / "etc/default/relayd").touch()
        shutil.copy(home / "api-key", settings.with_name("api-key"))
        lines = (f'server = "ws://127.0.0.1:{port}"', 'proxy-id = "site-1"', f'state-dir = "{state}"')
        settings.write_text("\n".join((*lines, 'api-key-file = "api-key"', 'dialect = "socketio"', "")))
        self.shell.environ["RELAYD_CONFIG"] = str(settings)
        self.pid = home / "pid"
        begin = f"twistd --pidfile={self.pid} --logfile={home}/relayd.log relayd --config {settings}"
        end = f"kill $(cat {self.pid}); while [ -e {self.pid} ]; do sleep 0.1; done"
        for example, real in {
            "systemctl start relayd": begin,
            "systemctl enable --now relayd": begin,
            "systemctl stop relayd": end,
            "systemctl disable --now relayd": end,
            "-C / ": f"-C {root} ",
            " /var/lib/relayd": f" {state}",
        }.items():
            self.shell.replace(example, real)
        self.sshd = await self.start_sshd()
        (state / "known_hosts").write_text(f"{self.sshd.host_key_line}\n")
        start, stop = (Block("", (Step("$", f"systemctl {word} relayd", ""),), 0) for word in ("start", "stop"))
        await self.shell.run(start)
        self.addCleanup(self.stop)
        await self.hub.when_connected("site-1")
        await self.order(self.sshd, "c1", "true")
        self.stopping = stop
        await self.run_page("docs/howto/backup.rst")
        self.assertEqual(sorted(path.name for path in state.iterdir()), ["known_hosts", "lock"], "of the clone")
        self.assertTrue(state.is_symlink())

    def link_state(self) -> None:
        """As systemd does it for DynamicUser."""
        (self.root / "var/lib/private/relayd").mkdir(parents=True)
        (self.root / "var/lib/relayd").symlink_to("private/relayd")

    async def before(self, block: Block) -> None:
        """The restored machine has nothing at first; on the one that relayd moves to, it has run before."""
        commands = " ".join(step.command for step in block.steps)
        state = self.root / "var/lib/relayd"
        if "-xzf" in commands:
            if self.pid.exists():
                await self.shell.run(self.stopping)
            for name in ("etc", "var"):
                shutil.rmtree(self.root / name)
            if "move" in commands:
                self.link_state()
        if "relayctl check" in commands:
            self.assertEqual((state / "known_hosts").read_text(), f"{self.sshd.host_key_line}\n")
            self.assertFalse((state / "journal").exists(), "the copy has a journal")
        if "systemctl stop" in commands or "systemctl disable" in commands:
            await self.hub.when_connected("site-1")
            self.assertTrue((state / "journal").exists())

    def stop(self) -> None:
        if self.pid.exists():
            os.kill(int(self.pid.read_text()), signal.SIGKILL)


class AuditTests(PageTestCase):
    """docs/audit.rst, with a log that a relay has written."""

    async def test_audit(self) -> None:
        home = await self.open()
        log, state = home / "audit.log", home / "state"
        state.mkdir()
        await deferToThread(auditing.write, log, 3)
        read_key(key_file(str(state)), make=True)
        (home / "relayd.toml").write_text(f'audit-log = "{log}"\nstate-dir = "{state}"\n')
        self.shell.environ["RELAYD_CONFIG"] = str(home / "relayd.toml")
        head = Path(f"{log}.head").read_text().split()[1]
        for example, real in {"PATH": str(log), "FILE...": str(log), "HASH": head}.items():
            self.shell.replace(example, real)
        await self.run_page("docs/audit.rst")
