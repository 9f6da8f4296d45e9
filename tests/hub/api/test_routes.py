"""
relayd.hub.api.routes and .all_routes: each route with each role, each scope and nobody, from the table itself.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection
from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.access.permissions import Permission, Role, permissions_of
from relayd.hub.api.all_routes import ROUTES
from relayd.hub.api.calls import Call, NoQuery
from relayd.hub.api.problems import MethodNotAllowed, UnknownPath
from relayd.hub.api.routes import Anyone, Idempotency, Precondition, Route, Router
from relayd.hub.store import users
from relayd.hub.store.users import UserChange
from tests.hub.api.hub_case import HubCase
from tests.hub.api.serving import Response

#: What anybody may ask without saying who they are.
PUBLIC = {
    "POST /api/v1/session",
    "POST /api/v1/enrol",
    "GET /api/v1/openapi.json",
    "GET /healthz",
    "GET /readyz",
}


async def nothing(hub: object, call: Call[NoQuery, None]) -> None:
    """A handler."""


class TableTests(SynchronousTestCase):
    def test_a_route_has_a_permission(self) -> None:
        given: dict[str, Any] = {"method": "GET", "path": "/x", "handler": nothing, "summary": ""}
        self.assertRaises(TypeError, Route, **given)
        self.assertRaises(TypeError, Route, **given, permission=None)
        self.assertRaises(TypeError, Route, **given, permission="runs:read")
        Route(**given, permission=Permission.RUNS_READ)

    def test_what_changes_something_has_an_act(self) -> None:
        given: dict[str, Any] = {"path": "/x", "handler": nothing, "summary": "", "permission": Permission.RUNS_READ}
        self.assertRaises(TypeError, Route, **given, method="POST")
        self.assertRaises(TypeError, Route, **given, method="GET", act="x")

    def test_what_is_public(self) -> None:
        """This list grows only with a reason."""
        self.assertEqual({route.name for route in ROUTES if route.permission is Anyone.PUBLIC}, PUBLIC)

    def test_finding(self) -> None:
        routes = [
            Route(method=method, path=path, handler=nothing, summary="", permission=Permission.RUNS_READ, act=act)
            for method, path, act in (
                ("GET", "/runs/{id}", ""),
                ("POST", "/runs/dry-run", "x"),
                ("GET", "/runs/{id}/events", ""),
                ("DELETE", "/relays/{name}/keys/{id}", "x"),
            )
        ]
        router = Router(routes)

        def find(method: str, path: str) -> Any:
            route, parameters = router.find(method, tuple(path[1:].split("/")))
            return route.path, parameters

        self.assertEqual(find("GET", "/api/v1/runs/7"), ("/runs/{id}", {"id": "7"}))
        self.assertEqual(find("HEAD", "/api/v1/runs/7/events"), ("/runs/{id}/events", {"id": "7"}))
        self.assertEqual(find("DELETE", "/api/v1/relays/a/keys/b")[1], {"name": "a", "id": "b"})
        for path in ("/", "/api/v1", "/api/v1/runs", "/api/v1/runs/", "/api/v1/runs/7/x", "/api/v1/relays/a/keys"):
            self.assertRaises(UnknownPath, find, "GET", path)
        error = self.assertRaises(MethodNotAllowed, find, "GET", "/api/v1/runs/dry-run")
        self.assertEqual(error.headers["Allow"], "POST")
        self.assertRaises(ValueError, Router, [*routes, routes[0]])


class PermissionTests(HubCase):
    """Real tokens of real users."""

    async def start(self) -> None:
        await super().start()
        await self.add_users()

    async def probe(self, route: Route, token: str) -> Response:
        """A request that is refused for nothing but who sends it, or else for what it asks."""
        path = route.full_path
        for name in route.parameters:
            path = path.replace(f"{{{name}}}", "nothing")
        headers = {}
        if route.precondition is Precondition.REQUIRED:
            headers["If-Match"] = "*"
        if route.idempotency_key is Idempotency.REQUIRED:
            headers["Idempotency-Key"] = "k"
        if route.takes is not None:
            headers["Content-Type"] = route.media_types[0]
        body = None if route.takes is None else b'{"unknown": 1}'
        return await self.call(token, route.method, path, body, headers)

    def assert_admitted(self, route: Route, response: Response, admitted: bool, who: str) -> None:
        refused = response.status in (401, 403) and response.document["type"].rpartition(":")[2] in (
            "not-authenticated",
            "forbidden",
        )
        self.assertEqual(not refused, admitted, f"{route.name} by {who}: {response.status} {response.body!r}")
        self.assertLess(response.status, 500, f"{route.name} by {who}: {response.body!r}")

    async def test_nobody(self) -> None:
        for route in ROUTES:
            response = await self.probe(route, "")
            self.assert_admitted(route, response, route.permission is Anyone.PUBLIC, "nobody")

    async def test_roles(self) -> None:
        for name, role in (
            ("vera", Role.VIEWER),
            ("bob", Role.OPERATOR),
            ("olga", Role.OPERATOR),
            ("alice", Role.ADMIN),
        ):
            for route in ROUTES:
                if route.act == "login" or self.is_about_the_session(route):
                    continue
                may = isinstance(route.permission, Anyone) or route.permission in permissions_of(role)
                self.assert_admitted(route, await self.probe(route, name), may, name)

    async def test_scopes(self) -> None:
        """A token with one scope, and with all but that."""
        session = await self.logged_in("alice")
        for scope in Permission:
            one = await self.token_of(session.principal, f"one-{scope.name.lower()}", [scope])
            others = await self.token_of(session.principal, f"not-{scope.name.lower()}", set(Permission) - {scope})
            for route in ROUTES:
                if isinstance(route.permission, Anyone):
                    continue
                self.assert_admitted(route, await self.probe(route, one), route.permission is scope, f"{scope} alone")
                if route.permission is scope:
                    self.assert_admitted(route, await self.probe(route, others), False, f"all but {scope}")

    async def test_a_token_never_has_more_than_its_user_has_now(self) -> None:
        self.assertEqual((await self.call("alice", "GET", "/users")).status, 200)

        def demote(connection: Connection) -> None:
            users.change(connection, "alice", UserChange(role="viewer"))

        await self.store.run(demote)
        self.assert_problem(await self.call("alice", "GET", "/users"), 403, "forbidden")
        self.assertEqual((await self.call("alice", "GET", "/runs")).status, 200)

    async def test_refusals_are_in_the_audit_log(self) -> None:
        for route in ROUTES:
            if route.act and isinstance(route.permission, Permission) and route.permission is not Permission.RUNS_WRITE:
                await self.probe(route, "bob")
        acts = {
            route.act
            for route in ROUTES
            if route.act and isinstance(route.permission, Permission) and route.permission is not Permission.RUNS_WRITE
        }
        found = {entry["event"] for entry in await self.acts() if entry["outcome"] == "forbidden"}
        self.assertEqual(found & acts, acts)

    def is_about_the_session(self, route: Route) -> bool:
        """These want a session whatever the token: another test has them."""
        return route.path.startswith("/me/") or route.path == "/session"
