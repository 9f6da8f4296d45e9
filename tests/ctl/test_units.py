"""
relayd.ctl.units and unit_files: what systemd says of a unit, and what its files say.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from relayd.ctl import units
from relayd.ctl.units import NoUnit, ask_systemd, read_unit, running_units
from relayd.process.unit_files import loaded_credentials
from tests.support.units import FakeSystemd

ROOT = Path(__file__).resolve().parents[2]


class UnitTests(SynchronousTestCase):
    """What systemd says."""

    def setUp(self) -> None:
        self.systemd = FakeSystemd()

    def reason(self, name: str, ask: units.Ask | None = None) -> str:
        return str(self.assertRaises(NoUnit, read_unit, name, ask or self.systemd))

    def test_the_packaged_one(self) -> None:
        unit = read_unit("relayd", self.systemd)
        self.assertEqual((unit.name, unit.files), ("relayd.service", ("/lib/systemd/system/relayd.service",)))
        self.assertEqual(unit.argv[-2:], ("--config", "/etc/relayd/relayd.toml"))
        self.assertEqual(unit.environment_files, (("/etc/default/relayd", True),))
        self.assertEqual((dict(unit.credentials), unit.opaque), ({"api-key": "/etc/relayd/api-key"}, ()))
        self.assertEqual((unit.user, unit.uid, unit.dynamic), ("relayd", None, True))
        self.assertEqual(
            dict(unit.directories),
            {
                "STATE_DIRECTORY": ("/var/lib/relayd",),
                "RUNTIME_DIRECTORY": ("/run/relayd",),
                "LOGS_DIRECTORY": ("/var/log/relayd",),
            },
        )

    def test_credentials_that_only_systemd_reads(self) -> None:
        self.systemd.units["relayd.service"] = {
            "LoadCredentialEncrypted": [["deploy", "/etc/relayd/deploy.cred"]],
            "SetCredential": [["api-key", [10]], ["word", [104, 105]]],
            "UID": 61234,
        }
        unit = read_unit("relayd.service", self.systemd)
        self.assertEqual((sorted(unit.opaque), unit.uid), (["deploy", "word"], 61234))

    def test_none(self) -> None:
        self.assertEqual(self.reason("relay"), "systemd has no unit relay.service")

    def test_one_that_cannot_be_used(self) -> None:
        self.systemd.units["relayd.service"] = {
            "LoadState": "bad-setting",
            "LoadError": ["x", "Unit has no ExecStart="],
        }
        expected = "systemd cannot start relayd.service: Unit has no ExecStart=; see systemctl status relayd.service"
        self.assertEqual(self.reason("relayd"), expected)
        self.systemd.units["relayd.service"] = {"LoadState": "masked"}
        expected = "systemd cannot start relayd.service: it is masked; systemctl unmask relayd.service"
        self.assertEqual(self.reason("relayd"), expected)

    def test_answers_that_are_not_understood(self) -> None:
        for answer in (b"", b"{}", b"[]", b'{"data": 1}', b'{"data": []}'):
            self.assertIn("not understood", self.reason("relayd", lambda _, answer=answer: answer))

    def test_those_that_run(self) -> None:
        self.systemd.units |= {"relayd@b.service": {"ActiveState": "active"}, "relayd@a.service": {}}
        self.systemd.units["relayd@c.service"] = {"ActiveState": "failed"}
        self.assertEqual(running_units("relayd@*.service", self.systemd), ["relayd@b.service", "relayd@c.service"])


class AskTests(SynchronousTestCase):
    """Where systemd cannot be asked."""

    def ask(self, script: str | None) -> str:
        folder = Path(self.mktemp())
        folder.mkdir()
        if script is not None:
            (folder / "busctl").write_text(f"#!/bin/sh\n{script}\n")
            (folder / "busctl").chmod(0o755)
        self.patch(units, "RUNS", "/")
        self.patch(
            os, "environ", {**os.environ, "PATH": f"{folder.resolve()}:/usr/bin:/bin" if script else str(folder)}
        )
        return str(self.assertRaises(NoUnit, ask_systemd, ("x",)))

    def test_it_does_not_run(self) -> None:
        self.patch(units, "RUNS", "/nowhere")
        self.assertEqual(str(self.assertRaises(NoUnit, ask_systemd, ())), "systemd does not run here")

    def test_no_bus(self) -> None:
        said = self.ask("echo 'Failed to connect to bus: Connection refused' >&2; exit 1")
        self.assertEqual(said, "systemd does not answer: Failed to connect to bus: Connection refused")

    def test_a_name_like_an_option(self) -> None:
        """busctl must not take it for one: what follows the two hyphens are arguments."""
        self.assertIn("call -- x", self.ask('printf "%s " "$@" >&2; exit 1'))

    def test_an_error_is_an_answer(self) -> None:
        said = self.ask("printf 'Call failed: Unit name a\\033[31m is not valid.\\n' >&2; exit 1")
        self.assertRegex(said, r"systemd says: Unit name a.\[31m is not valid$")
        self.assertTrue(said.isprintable())

    def test_no_busctl(self) -> None:
        self.assertIn("busctl does not answer", self.ask(None))

    def test_it_hangs(self) -> None:
        self.patch(units, "PATIENCE", 0.1)
        self.assertIn("busctl does not answer", self.ask("exec sleep 60"))


class FilesTests(SynchronousTestCase):
    """``LoadCredential`` in the files of a unit."""

    def setUp(self) -> None:
        self.root = Path(self.mktemp())

    def write(self, name: str, *lines: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(("[Service]", *lines)) + "\n")

    def loaded(self, unit: str, folders: Sequence[str] = ("etc", "lib")) -> dict[str, str]:
        return loaded_credentials(unit, tuple(self.root / folder for folder in folders))

    def test_the_units_of_the_package(self) -> None:
        for name, path in (
            ("relayd.service", "/etc/relayd/api-key"),
            ("relayd@s-1.service", "/etc/relayd/s-1.api-key"),
        ):
            self.assertEqual(loaded_credentials(name, (ROOT / "packaging" / "systemd",)), {"api-key": path})

    def test_drop_ins_and_what_weighs_more(self) -> None:
        self.write(
            "lib/relayd.service", "LoadCredential=api-key:/lib", "#LoadCredential=x:/x", "LoadCredential=inherited"
        )
        self.assertEqual(self.loaded("relayd.service"), {"api-key": "/lib"})
        self.write("lib/relayd.service.d/20.conf", "LoadCredential=api-key:/drop-in")
        self.write("lib/relayd.service.d/10.conf", "LoadCredential = api-key:/earlier", "LoadCredential=more:/more")
        self.assertEqual(self.loaded("relayd.service"), {"api-key": "/drop-in", "more": "/more"})
        self.write("etc/relayd.service.d/20.conf", "")
        self.assertEqual(self.loaded("relayd.service"), {"api-key": "/earlier", "more": "/more"})
        self.write("etc/relayd.service.d/05.conf", "LoadCredential=api-key:/first")
        self.assertEqual(self.loaded("relayd.service"), {"api-key": "/earlier", "more": "/more"})
        self.write("etc/relayd.service", "LoadCredential=api-key:/etc")
        self.write("etc/relayd.service.d/05.conf", "")
        self.write("etc/relayd.service.d/10.conf", "")
        self.assertEqual(self.loaded("relayd.service"), {"api-key": "/etc"})
        self.write("etc/relayd.service.d/30.conf", "LoadCredential=", "LoadCredential=apikey:/etc")
        self.assertEqual(self.loaded("relayd.service"), {"apikey": "/etc"})

    def test_one_of_several(self) -> None:
        self.write("lib/relayd@.service", "LoadCredential=api-key:/etc/relayd/%i.api-key")
        self.write("etc/relayd@.service.d/key.conf", "LoadCredential=more:/more")
        self.write("etc/relayd@b.service.d/key.conf", "LoadCredential=api-key:/b")
        self.assertEqual(self.loaded("relayd@a.service"), {"api-key": "/etc/relayd/a.api-key", "more": "/more"})
        self.assertEqual(self.loaded("relayd@b.service"), {"api-key": "/b"})
        self.assertEqual(self.loaded("other.service"), {})
