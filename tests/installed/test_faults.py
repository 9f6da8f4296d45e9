"""
Each fault of `tests.installed.faults` is named in one line, with its cure, where an operator looks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tests.installed import faults
from tests.installed.faults import Fault
from tests.installed.installation import PROXY_ID, run, until
from tests.installed.test_service import InstalledCase


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
        if fault.log and not await until(lambda: self._logged(fault.log)):
            yield f"{fault.what}: not in the log: {fault.log}: {await self.relay.log()}"
        if fault.command is not None:
            fields = {key: value(self.relay) if callable(value) else value for key, value in fault.command.items()}
            try:
                said = (await self.relay.execute(**fields)).stderr
            except Exception as error:
                said = str(error)
            if not re.search(fault.answer, said):
                yield f"{fault.what}: not in the answer: {fault.answer}: {said}"
        if fault.check:
            done = await run("relayctl", "check")
            # Relays that take the name from each other leave it to chance whether there is a fault just then.
            by_chance = fault.check.startswith("warning")
            right = by_chance or (done.code != 0) == fault.check.startswith("fault")
            if not right or not re.search(f"(?m)^{fault.check}", done.output):
                yield f"{fault.what}: not in relayctl check: {fault.check}: {done.output}"

    async def _logged(self, pattern: str) -> bool:
        return any(re.search(pattern, line) for line in await self.relay.log())

    async def test_keys(self) -> None:
        await self.name(faults.KEYS)

    async def test_settings(self) -> None:
        await self.name(faults.SETTINGS)

    async def test_the_way_to_the_main_server(self) -> None:
        await self.name(faults.UPLINK)

    async def test_the_machine(self) -> None:
        await self.name(faults.MACHINE)

    async def test_hosts(self) -> None:
        await self.name(faults.HOSTS)
