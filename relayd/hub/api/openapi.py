"""
The OpenAPI 3.1 document of the API, made from its routes and their types.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from msgspec import Struct

from relayd.hub.access import errors as access
from relayd.hub.access.permissions import Permission
from relayd.hub.access.secret_texts import SECURE_COOKIE
from relayd.hub.api.problems import (
    PROBLEM_JSON,
    BodyTooLarge,
    BodyUnexpected,
    Changed,
    ConditionMissing,
    CrossSite,
    InvalidHeader,
    InvalidQuery,
    InvalidRequest,
    KeyMissing,
    KeyReused,
    LengthRequired,
    MalformedRequest,
    MethodNotAllowed,
    Misdirected,
    NotAcceptable,
    NotAuthenticated,
    NotJson,
    Problem,
    ProblemDetails,
    RequestTimeout,
    TooManyRequests,
    Unavailable,
    UnsupportedMediaType,
)
from relayd.hub.api.routes import JSON, Anyone, Idempotency, Precondition, Route
from relayd.hub.api.streams import EVENT_STREAM
from relayd.hub.api.translation import status_of
from relayd.hub.store import errors as store
from relayd.language.errors import DescribedError
from relayd.wire.secret import Secret

Schema = dict[str, Any]

_TEMPLATE: Final = "#/components/schemas/{name}"
_ALWAYS: Final = (
    MalformedRequest,
    InvalidHeader,
    InvalidQuery,
    MethodNotAllowed,
    NotAcceptable,
    RequestTimeout,
    Misdirected,
    TooManyRequests,
    Problem,
    Unavailable,
)
_DESCRIPTION: Final = (
    "Runs commands on the hosts of a relayd hub. Times are RFC 3339 in UTC; lists have `items` and `next`, a cursor "
    "for the parameter `cursor`, which is absent on the last page; what goes wrong is problem details (RFC 9457)."
)


def document(routes: Iterable[Route], version: str) -> Schema:
    """The whole document."""
    routes = list(routes)
    types = _types(routes)
    schemas, components = msgspec.json.schema_components(types, schema_hook=_hook, ref_template=_TEMPLATE)
    by_type = dict(zip(map(_key, types), schemas, strict=True))
    paths: dict[str, Schema] = {}
    for route in routes:
        paths.setdefault(route.full_path, {})[route.method.lower()] = _operation(route, by_type)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "relayd hub",
            "version": version,
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in sorted({_tag(route) for route in routes})],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "An API token."},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": SECURE_COOKIE,
                    "description": "What POST /session gives. To change something takes X-CSRF-Token, too.",
                },
            },
        },
    }


def encoded(routes: Iterable[Route], version: str) -> bytes:
    """The document as the file in ``docs/`` has it."""
    return msgspec.json.format(msgspec.json.encode(document(routes, version)), indent=1) + b"\n"


def _types(routes: Sequence[Route]) -> list[Any]:
    found: dict[Any, Any] = {_key(ProblemDetails): ProblemDetails}
    for route in routes:
        for kind in (route.takes, route.answers):
            if kind is not None and kind is not bytes:
                found[_key(kind)] = kind
    return list(found.values())


def _key(kind: Any) -> str:
    return repr(kind)


def _hook(kind: type) -> Schema:
    if kind is Secret:
        return {"type": "string", "format": "password", "writeOnly": True}
    raise NotImplementedError(kind)


def _operation(route: Route, schemas: dict[str, Schema]) -> Schema:
    operation: Schema = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "tags": [_tag(route)],
        "parameters": [*_path_parameters(route), *_query_parameters(route.query), *_header_parameters(route)],
        "responses": _responses(route, schemas),
        "security": _security(route),
    }
    if route.description:
        operation["description"] = route.description
    if route.takes is bytes:
        content = {kind: {"schema": {"type": "string"}} for kind in route.media_types}
        operation["requestBody"] = {"required": True, "content": content}
    elif route.takes is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": schemas[_key(route.takes)]}}}
    return operation


def _operation_id(route: Route) -> str:
    words = [route.method.lower(), *route.path.replace("{", "by_").replace("}", "").replace("-", "_").split("/")]
    return "_".join(word for word in words if word).replace(".", "_")


def _tag(route: Route) -> str:
    return route.path.split("/")[1] if not route.rooted else "operation"


def _security(route: Route) -> list[Schema]:
    if route.permission is Anyone.PUBLIC:
        return []
    scopes = [] if isinstance(route.permission, Anyone) else [str(route.permission)]
    return [{"token": scopes}, {"session": scopes}]


def _path_parameters(route: Route) -> list[Schema]:
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in route.parameters]


def _query_parameters(kind: type[Struct]) -> list[Schema]:
    (_,), components = msgspec.json.schema_components([kind], ref_template=_TEMPLATE)
    schema = components[kind.__name__]
    found = []
    for name, each in schema["properties"].items():
        about = {"description": each.pop("description")} if "description" in each else {}
        required = name in schema.get("required", ())
        found.append({"name": name, "in": "query", "required": required, "schema": each, **about})
    return found


def _header_parameters(route: Route) -> list[Schema]:
    names = []
    if route.precondition is Precondition.REQUIRED:
        names.append(("If-Match", True, "The ETag of what is changed, or * for whatever is there."))
    if route.idempotency_key is not Idempotency.NONE:
        required = route.idempotency_key is Idempotency.REQUIRED
        names.append(("Idempotency-Key", required, "A new random text; the same request with it is done once."))
    if route.produces == EVENT_STREAM:
        names.append(("Last-Event-ID", False, "The id of the last event that the client has."))
    return [
        {"name": name, "in": "header", "required": required, "description": about, "schema": {"type": "string"}}
        for name, required, about in names
    ]


def _responses(route: Route, schemas: dict[str, Schema]) -> Schema:
    answer: Schema = {"description": HTTPStatus(route.status).phrase}
    if route.answers is bytes:
        answer["content"] = {route.produces: {"schema": {"type": "string"}}}
    elif route.answers is not None:
        answer["content"] = {route.produces: {"schema": schemas[_key(route.answers)]}}
    responses: Schema = {str(route.status): answer}
    by_status: dict[int, list[str]] = {}
    for problem in problems_of(route):
        by_status.setdefault(problem.status, []).append(problem.code)
    for refusal in refusals_of(route):
        by_status.setdefault(status_of(refusal).status, []).append(refusal.code)
    reference = {"$ref": _TEMPLATE.format(name=ProblemDetails.__name__)}
    for status, codes in sorted(by_status.items()):
        responses[str(status)] = {
            "description": ", ".join(sorted(set(codes))),
            "content": {PROBLEM_JSON: {"schema": reference}},
        }
    return responses


def refusals_of(route: Route) -> list[type[DescribedError]]:
    """Which errors of other parts of the hub a route answers with."""
    found = [*route.refusals, store.StoreUnavailable, store.StoreBusy, store.CommitUnknown, store.StoreClosed]
    if route.permission is not Anyone.PUBLIC:
        found += [access.NotAuthenticated, access.PasswordMustChange]
    if isinstance(route.permission, Permission):
        found.append(access.Forbidden)
    if route.act:
        found += [access.CsrfWrong, access.AuditUnavailable]
    return found


def problems_of(route: Route) -> list[type[Problem]]:
    """Which problems a route answers with."""
    found: list[type[Problem]] = [*_ALWAYS, *route.problems]
    if route.permission is not Anyone.PUBLIC:
        found += [NotAuthenticated, CrossSite]
    if route.act and route.permission is Anyone.PUBLIC:
        found.append(CrossSite)
    if route.takes is None:
        found.append(BodyUnexpected)
    else:
        found += [BodyTooLarge, LengthRequired, UnsupportedMediaType]
        if route.takes is not bytes:
            found += [NotJson, InvalidRequest]
    if route.precondition is Precondition.REQUIRED:
        found += [Changed, ConditionMissing]
    if route.idempotency_key is not Idempotency.NONE:
        found += [KeyMissing, KeyReused]
    return found
