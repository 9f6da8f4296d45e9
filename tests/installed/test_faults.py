"""
Each fault of `tests.installed.faults` is named in one line, with its cure, where an operator looks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tests.installed.faults.fault import Fault
from tests.installed.faults.hosts import HOSTS
from tests.installed.faults.machine import MACHINE
from tests.installed.faults.settings import KEYS, SETTINGS
from tests.installed.faults.uplink import UPLINK
from tests.installed.installation import PROXY_ID, run, until
from tests.installed.test_service import InstalledCase


def names(pattern: str, fault: Fault, line: str) -> bool:
    """Whether a line names a fault, and what to do about it."""
    return bool(re.search(pattern, line) and re.search(fault.cure, line))


class FaultTests(InstalledCase):
    """Faults by kind, one after the other in the same machine."""

    timeout = 600

    async def name(self, made: Iterable[Fault]) -> None:
        """Make each fault, and look for its lines."""
        missing = [line for fault in made for line in await self.missing(fault)]
        self.assertEqual(missing, [], "\n" + "\n".join(missing))

    async def missing(self, fault: Fault) -> list[str]:
        """What does not name *fault*."""
        await self.relay.configure()
        try:
            if fault.make is not None:
                await fault.make(self.relay)
            await self.relay.start(wait=False)
            return [line async for line in self._look(fault)]
        finally:
            await self.relay.repair()

    async def _look(self, fault: Fault):  # type: ignore[no-untyped-def]  # mypy has no name for it
        if fault.sound and not await until(lambda: PROXY_ID in self.server.hub.relays):
            yield f"{fault.what}: not accepted: {await self.relay.log()}"
        if fault.log and not await until(lambda: self._logged(fault)):
            yield f"{fault.what}: not in the log: {fault.log} … {fault.cure}: {await self.relay.log()}"
        if fault.command is not None:
            fields = {key: value(self.relay) if callable(value) else value for key, value in fault.command.items()}
            try:
                said = (await self.relay.execute(**fields)).stderr
            except Exception as error:
                said = str(error)
            if not names(fault.answer, fault, " ".join(said.split())):
                yield f"{fault.what}: not in the answer: {fault.answer} … {fault.cure}: {said}"
        if fault.check:
            done = await run("relayctl", "check")
            right = (done.code != 0) == fault.check.startswith("fault")
            if not right or not any(names(f"^{fault.check}", fault, line) for line in done.output.splitlines()):
                yield f"{fault.what}: not in relayctl check: {fault.check} … {fault.cure}: {done.output}"

    async def _logged(self, fault: Fault) -> bool:
        return any(names(fault.log, fault, line) for line in await self.relay.log())

    async def test_keys(self) -> None:
        await self.name(KEYS)

    async def test_settings(self) -> None:
        await self.name(SETTINGS)

    async def test_the_way_to_the_main_server(self) -> None:
        await self.name(UPLINK)

    async def test_the_machine(self) -> None:
        await self.name(MACHINE)

    async def test_hosts(self) -> None:
        await self.name(HOSTS)
