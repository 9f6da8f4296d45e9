"""
relayd.settings: what the parts of a relay get, and that only what may change reaches them on SIGHUP.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from msgspec import Struct

from relayd import __version__
from relayd.config.option import Effect
from relayd.config.options import OPTIONS, Config
from relayd.settings import (
    limits_of,
    live_ssh_settings_of,
    live_uplink_settings_of,
    relay_info_of,
    runner_settings_of,
    ssh_settings_of,
    uplink_settings_of,
)
from tests.config.test_options import ConfigCase

_LIVE = (limits_of, live_ssh_settings_of, live_uplink_settings_of, runner_settings_of)


def _values(settings: Struct) -> dict[str, Any]:
    """The fields of a struct but for functions, which are made anew each time."""
    fields = {name: getattr(settings, name) for name in settings.__struct_fields__}
    return {name: value for name, value in fields.items() if not callable(value)}


class LiveTests(ConfigCase):
    """The parts that `relayd.service.RelayService.apply` hands on."""

    def other(self, config: Config, attribute: str) -> Config:
        value: Any = getattr(config, attribute)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return dataclasses.replace(config, **{attribute: value + 1 if number else "other"})

    def test_what_waits_for_a_restart_is_in_none_of_them(self) -> None:
        config = self.load()
        for option in OPTIONS:
            if option.effect is Effect.RESTART:
                other = self.other(config, option.attribute)
                for make in _LIVE:
                    self.assertEqual(_values(make(other)), _values(make(config)), option.name)

    def test_what_the_relay_tells_of_itself(self) -> None:
        """Neither users nor credentials; and what its operator says of it, each label once."""
        toml = """
        label = ["site=berlin", "rack=a=7"]
        max-timeout = "1h"
        [[hosts]]
        name = "switches"
        hosts = ["sw-*", "!sw-9"]
        users = ["s3cret-user"]
        shell = "posix"
        password-file = "api-key"
        become = "su"
        become-user = "s3cret-become"
        via = "s3cret@jump-s3cret"
        [[hosts]]
        hosts = ["10.7.0.0/16"]
        pty = true
        [[credentials]]
        hosts = ["s3cret-host"]
        agent = "/s3cret"
        """
        config = self.load(toml)
        info = relay_info_of(config, 12.3456)
        assert info is not None
        wire = json.loads(json.dumps(info.to_wire(10_000)))
        self.assertNotIn("s3cret", repr(wire))
        self.assertEqual(wire["labels"], {"site": "berlin", "rack": "a=7"})
        self.assertEqual(wire["hosts"], [
            {"patterns": ["sw-*", "!sw-9"], "name": "switches"}, {"patterns": ["10.7.0.0/16"]},
        ])  # fmt: skip
        self.assertEqual((wire["version"], wire["uptime"]), (__version__, 12.346))
        self.assertEqual((wire["limits"]["maxTimeout"], wire["limits"]["maxCommands"]), (3_600_000, 64))
        self.assertIn("relay_info", wire["features"])
        self.assertTrue({"cwd", "via", "hostKey"} <= set(wire["features"]))
        self.assertFalse({"host", "password", "serverId"} & set(wire["features"]))
        self.assertNotIn("mainServers", wire)
        several = dataclasses.replace(config, server=("wss://s3cret-1", "wss://s3cret-2"), results_to="connected")
        told = relay_info_of(several, 1.0)
        assert told is not None
        wire = json.loads(json.dumps(told.to_wire(10_000)))
        self.assertEqual(wire["mainServers"], {"number": 2, "resultsTo": "connected"})
        self.assertNotIn("s3cret", repr(wire))
        basic = relay_info_of(dataclasses.replace(config, relay_info="basic"), 1.0)
        assert basic is not None
        self.assertEqual((basic.hosts, basic.labels), ((), info.labels))
        self.assertIsNone(relay_info_of(dataclasses.replace(config, relay_info="none"), 1.0))

    def test_what_needs_no_restart_reaches_a_part(self) -> None:
        """Or SIGHUP would say that it is in force, and change nothing."""
        config = self.load()
        # The site's policy, what `RelayService` itself reads, and files that are read again at each connection.
        elsewhere = {
            "allow-hosts", "deny-hosts", "allow-users", "allow-files", "deny-files", "allow-plaintext",
            "audit-commands", "drain-timeout", "failover-delay", "allow-weak-key", "api-key-file", "header-file",
            "http-proxy-password-file", "label", "relay-info",
        }  # fmt: skip
        for option in OPTIONS:
            if option.effect is not Effect.RESTART and option.name not in elsewhere:
                other = self.other(config, option.attribute)
                self.assertTrue(any(_values(make(other)) != _values(make(config)) for make in _LIVE), option.name)

    def test_all_settings_have_the_live_ones(self) -> None:
        config = self.load(tls_ca=self.key_file, max_output="1M", http_proxy="http://proxy:1")
        for live, whole in (
            (live_ssh_settings_of(config), ssh_settings_of(config)),
            (live_uplink_settings_of(config), uplink_settings_of(config)),
        ):
            self.assertLessEqual(_values(live).items(), _values(whole).items())
            self.assertIsInstance(whole, type(live))
