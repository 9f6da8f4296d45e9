"""
relayd.hub.api.buckets: rates, in bounded memory.
"""

from __future__ import annotations

from ipaddress import ip_network

from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.access.permissions import Permission
from relayd.hub.api.application import ApiSettings, Limits
from relayd.hub.api.buckets import Buckets
from relayd.hub.api.routes import Route
from tests.hub.api.serving import Serving


class BucketTests(SynchronousTestCase):
    def test_rates(self) -> None:
        buckets = Buckets(2.0, 3.0)
        self.assertEqual([buckets.take("a", 10.0) for _ in range(3)], [0, 0, 0])
        self.assertEqual(buckets.take("a", 10.0), 0.5)
        self.assertEqual(buckets.take("b", 10.0), 0, "each has its own")
        self.assertEqual(buckets.take("a", 10.5), 0)
        self.assertGreater(buckets.take("a", 10.5), 0)
        self.assertEqual([buckets.take("a", 100.0) for _ in range(3)], [0, 0, 0])
        self.assertGreater(buckets.take("a", 100.0), 0, "no more flows in than it holds")

    def test_memory(self) -> None:
        buckets = Buckets(1.0, 1.0, max_keys=100)
        for number in range(1000):
            buckets.take(number, 0.0)
            buckets.take("busy", 0.0)
        self.assertEqual(len(buckets), 100)
        self.assertGreater(buckets.take("busy", 0.0), 0, "those that ask all the time are not forgotten")


async def nothing(hub: object, call: object) -> None:
    """A handler."""


class RateTests(Serving):
    """What is answered to too many requests."""

    routes = (Route(method="GET", path="/x", handler=nothing, permission=Permission.RUNS_READ, summary="", status=204),)

    async def statuses(self, count: int, headers: list[tuple[str, str]]) -> list[int]:
        return [(await self.ask("GET", "/api/v1/x", headers=headers)).status for _ in range(count)]

    async def test_from_one_address(self) -> None:
        limits = Limits(address=(0.001, 2.0))
        await self.serve(self.routes, settings=ApiSettings(limits=limits))
        forged = [("X-Forwarded-For", "192.0.2.7")]
        self.assertEqual(await self.statuses(3, forged), [204, 204, 429])
        response = await self.ask("GET", "/api/v1/x", token="")
        self.assert_problem(response, 429, "too-many-requests")
        self.assertGreater(int(response.headers["retry-after"]), 0)

    async def test_behind_a_proxy(self) -> None:
        """It is the client's address that counts, and what the client wrote itself does not."""
        limits = Limits(address=(0.001, 1.0))
        proxies = (ip_network("127.0.0.0/8"),)
        await self.serve(self.routes, settings=ApiSettings(limits=limits, proxies=proxies))
        for address in ("192.0.2.7", "192.0.2.8"):
            for number, expected in ((1, 204), (2, 429)):
                headers = [("X-Forwarded-For", f"198.51.100.{number}, {address}")]
                self.assertEqual(await self.statuses(1, headers), [expected])

    async def test_of_one_principal(self) -> None:
        limits = Limits(principal=(0.001, 2.0))
        await self.serve(self.routes, settings=ApiSettings(limits=limits))
        self.assertEqual(await self.statuses(3, []), [204, 204, 429])
