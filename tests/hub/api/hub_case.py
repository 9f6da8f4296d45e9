"""
A whole hub behind its API on a loopback port: store, access, inventory, engine; its relays are the test's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import jsonschema_rs
from cryptography.fernet import Fernet
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint

from relayd.hub.access.permissions import Permission, Principal
from relayd.hub.api.all_routes import ROUTES, openapi_document
from relayd.hub.api.application import ApiSettings, Application
from relayd.hub.api.gate import AccessGate
from relayd.hub.api.hub import Hub
from relayd.hub.api.metrics import RequestCounts
from relayd.hub.api.problems import Problem
from relayd.hub.api.routes import Route, Router
from relayd.hub.api.server import ApiFactory
from relayd.hub.api.translation import problem_of
from relayd.hub.inventory.sealing import FixedKeys, Sealer
from relayd.hub.links.identity import RelayProgram
from relayd.hub.relays.administration import RelayAdministration
from relayd.hub.relays.enrolment import Enrolment
from relayd.hub.runs.engine import Engine
from relayd.hub.runs.interfaces import InventoryHost, Login
from relayd.hub.store import api_tokens, hosts
from relayd.hub.store.host_records import Host
from relayd.hub.store.relays import Relay, add
from relayd.language.texts import Text
from relayd.wire.messages import CommandResult, ExecuteCommand
from relayd.wire.policy_answer import PolicyAnswer
from tests.hub.api.serving import Asking, Response
from tests.support.access import AccessCase
from tests.support.databases import OnBothStores


class FakeInventory:
    """The hosts of the store, which all are logged in to as root."""

    def hosts(self, connection: Connection) -> Sequence[InventoryHost]:
        """See `relayd.hub.runs.interfaces.Inventory`."""
        return [
            InventoryHost(
                id=host.id,
                name=host.name,
                labels=host.labels,
                relays=host.relays,
                snapshot=json.dumps([host.address, list(host.relays)]),
            )
            for host in hosts.all_hosts(connection)
        ]

    def logins(self, connection: Connection, snapshots: Sequence[str]) -> Sequence[Login | Text]:
        """See `relayd.hub.runs.interfaces.Inventory`."""
        return [Login(host=json.loads(each)[0], port=22, username="root") for each in snapshots]

    def relays_of(self, snapshot: str) -> tuple[str, ...]:
        """See `relayd.hub.runs.interfaces.Inventory`."""
        return tuple(json.loads(snapshot)[1])


class FakeLink:
    """A relay that is connected."""

    def __init__(self, name: str) -> None:
        self.proxy_id = name
        self.program = RelayProgram()
        self.address = "192.0.2.9"


class FakeLinks:
    """
    Relays that the test plays.

    :ivar sent: what was sent, by relay.
    :ivar ended: connections that were ended, and why.
    """

    def __init__(self) -> None:
        self.relays: dict[str, Any] = {}
        self.sent: list[tuple[str, ExecuteCommand]] = []
        self.ended: list[tuple[str, str]] = []

    def send(self, proxy_id: str, command: ExecuteCommand) -> bool:
        self.sent.append((proxy_id, command))
        return proxy_id in self.relays

    def cancel(self, proxy_id: str, command_id: str) -> Deferred[Any]:
        return succeed(None)

    def status(self, proxy_id: str, command_id: str) -> Deferred[Any]:
        return succeed(None)

    def check(self, proxy_id: str, command: ExecuteCommand) -> Deferred[PolicyAnswer]:
        refused = "rm" in str(command.command)
        answer = PolicyAnswer(command_id="q", allowed=True)
        if refused:
            answer = PolicyAnswer(command_id="q", allowed=False, code="forbidden-command", reason="No rm here.")
        return succeed(answer)

    def shared_name(self, proxy_id: str) -> None:
        return None

    def disconnect(self, proxy_id: str, reason: str, key_id: str | None = None) -> bool:
        self.ended.append((proxy_id, reason))
        return True


@cache
def document() -> Any:
    """The OpenAPI document."""
    return json.loads(openapi_document())


@cache
def _validator(schema: str) -> jsonschema_rs.Draft202012Validator:
    whole = {**json.loads(schema), "components": document()["components"]}
    return jsonschema_rs.Draft202012Validator(whole)


def check_against_document(route: Route, response: Response) -> None:
    """What was answered is what the OpenAPI document says of the route."""
    responses = document()["paths"][route.full_path][route.method.lower()]["responses"]
    if response.status in (206, 304):
        return
    if str(response.status) not in responses:
        raise AssertionError(f"{route.name} answers {response.status}, which is not documented: {response.body!r}")
    content = responses[str(response.status)].get("content")
    if content is None:
        if response.body:
            raise AssertionError(f"{route.name} answers {response.body!r}, and is said to have no body")
        return
    kind = response.headers["content-type"]
    if response.status < 400 and kind.partition(";")[0] not in {name.partition(";")[0] for name in content}:
        if route.answers is not bytes:
            raise AssertionError(f"{route.name} answers {kind}")
        return
    if "json" in kind and route.answers is not bytes:
        schema = content[kind]["schema"]
        errors = list(_validator(json.dumps(schema)).iter_errors(response.document))
        if errors:
            raise AssertionError(f"{route.name}: {errors[0].instance_path}: {errors[0].message}")
    if kind == "application/problem+json":
        known = responses[str(response.status)]["description"].split(", ")
        code = response.document["type"].rpartition(":")[2]
        if code not in known:
            raise AssertionError(f"{route.name} answers {response.status} {code}, which is not documented")


class BothStoresCase(Asking, AccessCase):
    """
    A hub with its API, on both databases.

    :ivar tokens: API tokens by user.
    """

    settings = ApiSettings()

    async def start(self) -> None:
        await super().start()
        clock: Any = reactor
        self.links = FakeLinks()
        links: Any = self.links
        sealer = Sealer(FixedKeys((Fernet.generate_key(),)))
        inventory = FakeInventory()
        self.engine = Engine(clock, self.store, inventory, sealer, self.now)
        self.engine.links = links
        await self.engine.start()
        self.addCleanup(self.engine.stop)
        self.obstacles: list[str] = []
        registry, counts = CollectorRegistry(), RequestCounts()
        registry.register(counts)
        self.hub = Hub(
            reactor=reactor,
            now=self.now,
            store=self.store,
            access=self.access,
            sealer=sealer,
            relays=RelayAdministration(self.store, links, self.now),
            enrolment=Enrolment(self.store, self.now),
            public_url="https://hub.example",
            engine=self.engine,
            obstacles=lambda: self.obstacles,
            registry=registry,
        )
        self.router = Router(ROUTES)
        self.application = Application(
            clock=clock,
            hub=self.hub,
            router=self.router,
            gate=AccessGate(self.access.doorkeeper, self.access.audit),
            problem_of=self.problem_of,
            settings=self.settings,
            counts=counts,
        )
        self.factory = ApiFactory(reactor, self.application)
        port: Any = await TCP4ServerEndpoint(clock, 0, interface="127.0.0.1").listen(self.factory)
        self.port = int(port.getHost().port)
        self.addCleanup(self.factory.stop, 0.1)
        self.addCleanup(port.stopListening)
        self.tokens: dict[str, str] = {}

    def problem_of(self, error: Exception) -> Problem | None:
        """An error that is no problem fails the test: the log has it."""
        return problem_of(error)

    async def add_users(self) -> None:
        """The administrator alice, the operators bob (of ``env=prod``) and olga (of all), the viewer vera."""
        for name, role, selectors in (
            ("alice", "admin", None),
            ("bob", "operator", ("env=prod",)),
            ("olga", "operator", None),
            ("vera", "viewer", None),
        ):
            await self.user(name, role, selectors)
            session = await self.logged_in(name)
            self.tokens[name] = await self.token_of(session.principal, "all", session.principal.scopes)

    async def token_of(self, principal: Principal, name: str, scopes: Iterable[Permission]) -> str:
        """A token with these scopes, whatever its user may do."""
        _, text = await self.access.tokens.make(principal, name, sorted(principal.scopes), None)
        found = await self.store.read(api_tokens.find_by_id, _.id)
        assert found is not None

        def limit(connection: Connection) -> None:
            values = {"scopes": json.dumps(sorted(scopes))}
            table = api_tokens.api_tokens
            connection.execute(table.update().where(table.c.id == _.id).values(values))

        await self.store.run(limit)
        return text.reveal()

    async def call(
        self,
        user: str,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        status: int | None = None,
    ) -> Response:
        """A request of *user*, whose answer is held against the OpenAPI document."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        target = path if path.startswith("/api") or path in ("/healthz", "/readyz", "/metrics") else f"/api/v1{path}"
        token = self.tokens.get(user, user)
        response = await self.ask(method, target, data, list((headers or {}).items()), token=token)
        route, _ = self.router.find(method, tuple(target.partition("?")[0][1:].split("/")))
        check_against_document(route, response)
        if status is not None and response.status != status:
            raise AssertionError(f"{method} {path}: {response.status} {response.body!r}")
        return response

    async def add_hosts(self, **labels: str) -> None:
        """The relay r1, and hosts by name, each with a label ``env``."""
        await self.store.run(add, Relay(id="r1", name="r1", created_at=0))
        for name, env in labels.items():
            host = Host(name=name, address=f"{name}.example", relays=("r1",), labels={"env": env})
            await self.store.run(hosts.add_host, host, self.now())

    def connect_relay(self) -> FakeLink:
        """The relay r1 is there."""
        self.links.relays["r1"] = link = FakeLink("r1")
        self.engine.relay_connected(link)
        return link

    async def finish(self, command: ExecuteCommand, stdout: str = "", exit_code: int = 0) -> None:
        """The relay says that a command has ended."""
        done = self.engine.result(
            "r1",
            CommandResult(command_id=command.command_id, stdout=stdout, stderr="",
                          exit_code=exit_code),
        )  # fmt: skip
        if done is not None:
            await done

    async def until_sent(self, count: int) -> None:
        """Wait until so many commands were sent."""
        while len(self.links.sent) < count:
            await self.pause()


class HubCase(BothStoresCase):
    """The same on SQLite alone: for what does not depend on the database."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super(OnBothStores, cls).__init_subclass__(**kwargs)
