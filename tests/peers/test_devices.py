"""Network devices as FakeNOS imitates them: their prompts, echoes, and answers are not ours."""

from __future__ import annotations

from typing import Any

from relayd.network.host_rules import Family
from relayd.ssh.client import Completed
from relayd.ssh.device.run import DeviceRequest
from tests.support.ssh import DEADLINE, ServerTestCase
from tests.support.ssh_peers import BROUGHT, PLATFORMS, started

#: For each platform the family it is reached with, a line that it knows, and words of the answer.
LINES: dict[str, tuple[Family, bytes, str]] = {
    "cisco_ios": ("cisco", b"show clock", "UTC"),
    "arista_eos": ("cisco", b"show clock", ""),
    "huawei_vrp": ("huawei", b"display version", "Huawei Versatile Routing Platform"),
    "hp_comware": ("h3c", b"display vlan all", "VLAN ID: 1"),
    "juniper_junos": ("juniper", b"show vlans", "Routing instance"),
    "mikrotik_routeros": ("mikrotik", b"ip firewall filter print all without-paging", "Flags: X - disabled"),
}

if "fakenos" in BROUGHT:

    class FakeNOSTests(ServerTestCase):
        def request(self, platform: str, family: Family, *lines: bytes, **changes: Any) -> DeviceRequest:
            peer = started("fakenos")
            return DeviceRequest(
                target=peer.target(port=peer.port + PLATFORMS.index(platform)),
                family=family,
                lines=lines,
                secret=None,
                deadline=self.reactor.seconds() + DEADLINE,
                timeout=DEADLINE,
                most_sessions=1,
                **changes,
            )

        async def carry_out(self, *args: Any, **changes: Any) -> Completed:
            client = self.make_client(algorithms="legacy")
            return await client.run_on_device(self.request(*args, **changes))

        async def test_each_platform(self) -> None:
            client = self.make_client(algorithms="legacy")
            running = {
                platform: client.run_on_device(self.request(platform, family, line))
                for platform, (family, line, _) in LINES.items()
            }
            for platform, done in running.items():
                completed = await done
                text, expected = completed.stdout.text(), LINES[platform][2]
                self.assertEqual((None, expected), (completed.error, expected if expected in text else text), platform)
                self.assertNotIn(LINES[platform][1].decode(), text, platform)
                self.assertNotIn(f"{platform}>", text)

        async def test_modes_and_refusals(self) -> None:
            client = self.make_client(algorithms="legacy")
            lines = (b"enable", b"show version", b"bogus", b"show clock")
            completed = await client.run_on_device(self.request("cisco_ios", "cisco", *lines))
            self.assertEqual("line-refused", completed.error and completed.error.code)
            self.assertIn("Cisco IOS", completed.stdout.text())
            self.assertIn("% Invalid input", completed.stdout.text())
            # The next one begins in the mode that the login has.
            again = await client.run_on_device(self.request("cisco_ios", "cisco", b"show version"))
            self.assertEqual((1, None), (again.exit.status, again.error))
