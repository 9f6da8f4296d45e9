"""
One side of the uplink goes silent without a word: the other notices by its heartbeat, and nothing is lost.
"""

from __future__ import annotations

import os
import signal

from tests.support.faults import NATIVE, SOCKETIO, FaultCase


class HalfOpenTests(FaultCase):
    """Commands run while the link is dead, others are given into the void; the main server repeats what it misses."""

    async def commands_across(self) -> None:
        """Some that are running when the link dies; their results come later."""
        for number in range(8):
            self.order(f"before-{number}", f"sleep 1; echo {number}")
        await self.until(lambda: len(self.runs()) == 8, "all of them run")

    async def test_main_server_goes_silent(self) -> None:
        """The relay hears no heartbeat for pingInterval and pingTimeout together, and dials anew."""
        await self.begin(pingInterval=500, pingTimeout=1500)
        await self.commands_across()
        self.uplink.newest.stop()
        for number in range(8):
            self.order(f"lost-{number}")
        await self.logged("nothing arrived from it for 2 s")
        await self.connected(2)
        self.order_again()
        await self.check()

    async def test_relay_goes_silent(self) -> None:
        """Only what it says is lost: the main server drops it, and the relay learns of that."""
        await self.begin(pingInterval=500, pingTimeout=1500)
        await self.commands_across()
        self.uplink.newest.up.stop()
        await self.server.wait_for(lambda line: line.get("disconnected") == "ping timeout")
        self.uplink.newest.heal()
        await self.connected(2)
        await self.check()

    async def stopped_relay(self, script: str, **server: int) -> None:
        await self.begin(script, **server)
        await self.commands_across()
        os.kill(self.relay.pid, signal.SIGSTOP)
        await self.server.wait_for(lambda line: "disconnected" in line)
        await self.sleep(1)  # the commands have ended on the host by now
        os.kill(self.relay.pid, signal.SIGCONT)
        await self.connected(2)
        await self.check()

    async def test_stopped_relay(self) -> None:
        """SIGSTOP, as a virtual machine that is moved: the main server drops it; awake, it comes back."""
        await self.stopped_relay(SOCKETIO, pingInterval=500, pingTimeout=1500)

    async def test_stopped_relay_on_plain_websockets(self) -> None:
        await self.stopped_relay(NATIVE, ping=800)

    async def test_cut_in_every_way(self) -> None:
        """Reset, orderly end, half-close, garbage, and after any number of bytes."""
        await self.begin(pingInterval=500, pingTimeout=1500)
        faults = [
            lambda link: link.cut("rst"),
            lambda link: link.cut("fin"),
            lambda link: link.down.half_close(),
            lambda link: link.up.half_close(),
            lambda link: link.down.inject(b"\x93\x7fgarbage" * 100),
            lambda link: link.up.inject(b"\x93\x7fgarbage" * 100),
            *(lambda link, count=count: link.up.cut_after(count) for count in (1, 30, 200, 700)),
            *(lambda link, count=count: link.down.cut_after(count, "fin") for count in (1, 30, 200, 700)),
        ]
        for index, fault in enumerate(faults):
            times = self.connections()
            for number in range(6):
                self.order(f"cut-{index}-{number}", f"sleep 0.{number}; echo {number}")
            await self.until(self.running(f"cut-{index}-0"), "the first one runs")
            fault(self.uplink.newest)
            for number in range(6, 10):
                self.order(f"cut-{index}-{number}")
            await self.connected(times + 1)
            self.order_again()
            await self.settled()
        await self.check()

    async def test_slow_uplink(self) -> None:
        """Late, a byte at a time, and at a modem's speed: slow is not dead."""
        await self.begin(pingInterval=1000, pingTimeout=15_000)
        link = self.uplink.newest
        for name, fault in (
            ("late", lambda pipe: setattr(pipe, "delay", 0.4)),
            ("bytewise", lambda pipe: pipe.drip()),
            ("slow", lambda pipe: pipe.throttle(4000)),
        ):
            fault(link.up)
            fault(link.down)
            for number in range(4):
                self.order(f"{name}-{number}", "head -c 3000 /dev/zero | tr '\\0' x")
            await self.settled()
            link.heal()
        self.assertEqual(self.connections(), 1)
        await self.check()
