"""
relayd.uplink.settings: what may change while an uplink runs, and what stays.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.uplink.settings import LiveUplinkSettings, UplinkSettings
from relayd.wire.messages import Secret


def _key() -> Secret:
    return Secret("k" * 40)


class ChangedTests(SynchronousTestCase):
    """`UplinkSettings.changed`."""

    def test_only_what_may_change_changes(self) -> None:
        old = UplinkSettings(server="wss://a", proxy_id="p", read_api_key=_key, tls_ca="/old", dialect="native")
        changed = old.changed(LiveUplinkSettings(read_api_key=_key, reconnect_delay=9.0))
        self.assertEqual((changed.server, changed.proxy_id, changed.dialect), ("wss://a", "p", "native"))
        self.assertEqual((changed.reconnect_delay, changed.tls_ca), (9.0, None))

    def test_another_main_server_is_not_taken(self) -> None:
        old = UplinkSettings(server="wss://a", proxy_id="p", read_api_key=_key)
        other = UplinkSettings(server="wss://b", proxy_id="q", read_api_key=_key, reconnect_delay=9.0)
        changed = old.changed(other)
        self.assertEqual((changed.server, changed.proxy_id, changed.reconnect_delay), ("wss://a", "p", 9.0))

    def test_nothing_of_a_proxy_is_shown(self) -> None:
        for settings in (
            LiveUplinkSettings(read_api_key=_key, http_proxy="http://u:s3cret@proxy:1"),
            UplinkSettings(server="wss://a", proxy_id="p", read_api_key=_key, http_proxy="http://u:s3cret@proxy:1"),
        ):
            self.assertNotIn("s3cret", repr(settings))
