"""
relayd.hub.api.openapi: the document is valid and whole; docs/hub-api.rst has every route and every problem.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openapi_spec_validator import validate
from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.api.all_routes import ROUTES, openapi_document
from relayd.hub.api.openapi import problems_of, refusals_of
from relayd.hub.api.problems import Problem, problems
from relayd.hub.api.routes import Anyone
from relayd.hub.api.translation import STATUSES
from tests.hub.api.hub_case import HubCase

ROOT = Path(__file__).resolve().parents[3]
#: Texts that the domain bounds, not the type: what an order may have, `relayd.hub.runs.orders` says.
_BOUNDED_ELSEWHERE = {"Order", "ScriptOrder"}


def unbounded(schema: Any, components: Any, where: str) -> Iterator[str]:
    """The places in a request where a text, a list or a number may be as large as it likes."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name not in _BOUNDED_ELSEWHERE:
            yield from unbounded(components[name], components, f"{where} {name}")
        return
    for each in schema.get("anyOf", ()):
        yield from unbounded(each, components, where)
    kind = schema.get("type")
    secret = schema.get("format") in ("password", "date-time")
    if kind == "string" and not secret and "maxLength" not in schema and "enum" not in schema:
        yield f"{where}: text"
    if kind == "integer" and "maximum" not in schema:
        yield f"{where}: number"
    if kind == "array":
        if "maxItems" not in schema:
            yield f"{where}: list"
        yield from unbounded(schema["items"], components, f"{where}[]")
    if kind == "object":
        if schema.get("additionalProperties") is not False and "maxProperties" not in schema:
            yield f"{where}: object"
        for name, each in schema.get("properties", {}).items():
            yield from unbounded(each, components, f"{where}.{name}")


class DocumentTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.document = json.loads(openapi_document())

    def test_it_is_valid(self) -> None:
        validate(self.document)

    def test_every_route_is_in_it(self) -> None:
        found = {f"{method.upper()} {path}" for path, methods in self.document["paths"].items() for method in methods}
        self.assertEqual(found, {route.name for route in ROUTES})

    def test_names_of_operations_are_unique(self) -> None:
        names = [each["operationId"] for methods in self.document["paths"].values() for each in methods.values()]
        self.assertEqual(len(names), len(set(names)))

    def test_who_may_do_what(self) -> None:
        for route in ROUTES:
            security = self.document["paths"][route.full_path][route.method.lower()]["security"]
            if route.permission is Anyone.PUBLIC:
                self.assertEqual(security, [])
            else:
                scopes = [] if isinstance(route.permission, Anyone) else [route.permission.value]
                self.assertEqual(security, [{"token": scopes}, {"session": scopes}])

    def test_everything_in_a_request_has_a_bound(self) -> None:
        components = self.document["components"]["schemas"]
        found: list[str] = []
        for methods in self.document["paths"].values():
            for each in methods.values():
                for parameter in each["parameters"]:
                    if parameter["in"] == "query":
                        where = f"{each['operationId']}?{parameter['name']}"
                        found += unbounded(parameter["schema"], components, where)
                schema = each.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
                if schema.get("type") != "string":
                    found += unbounded(schema, components, each["operationId"])
        self.assertEqual(found, [])

    def test_requests_refuse_what_they_do_not_know(self) -> None:
        components = self.document["components"]["schemas"]
        for route in ROUTES:
            if route.takes is not None and route.takes is not bytes:
                self.assertIs(components[route.takes.__name__]["additionalProperties"], False, route.name)

    def test_secrets_are_marked(self) -> None:
        components = self.document["components"]["schemas"]
        for name in ("Login", "NewUser", "NewPassword", "OwnPassword", "NewCredential", "CredentialPatch", "Enrolment"):
            text = json.dumps(components[name])
            self.assertIn('"writeOnly": true', text, name)

    def test_the_reference_names_every_problem_and_every_route(self) -> None:
        text = (ROOT / "docs" / "hub-api.rst").read_text()
        codes = {problem.code for problem in problems()} | {error.code for error in STATUSES}
        for route in ROUTES:
            codes |= {problem.code for problem in problems_of(route)} | {each.code for each in refusals_of(route)}
            self.assertIn(f"``{route.method} {route.path}``", text)
        for code in codes:
            self.assertIn(f"``{code}``", text)

    def test_codes_are_unique(self) -> None:
        """One type of problem has one status."""
        found: dict[str, int] = {}
        for problem in problems(Problem):
            if problem.__name__ != "Described":
                self.assertEqual(found.setdefault(problem.code, problem.status), problem.status, problem.code)
        for error, status in STATUSES.items():
            self.assertEqual(found.setdefault(error.code, status.status), status.status, error.code)


class ServedTests(HubCase):
    async def test_it_is_served(self) -> None:
        """To anybody, as it is what the hub's source has, too."""
        response = await self.call("", "GET", "/openapi.json", status=200)
        self.assertEqual(response.body, openapi_document())
        self.assertEqual(response.headers["content-type"], "application/json")
