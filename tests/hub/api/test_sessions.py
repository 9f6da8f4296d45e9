"""
relayd.hub.api.resources.sessions, users and tokens: logging in by HTTP, and what a stolen cookie is of use for.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

from relayd.hub.api.application import ApiSettings
from tests.hub.api.hub_case import HubCase
from tests.hub.api.serving import Response
from tests.support.access import OTHER_PASSWORD, PASSWORD

#: What a reverse proxy on this machine adds: the client came over TLS, from elsewhere.
OVER_TLS = {"X-Forwarded-For": "192.0.2.50", "X-Forwarded-Proto": "https"}


class SessionCase(HubCase):
    settings = ApiSettings(proxies=(ip_network("127.0.0.0/8"),))

    async def start(self) -> None:
        await super().start()
        await self.add_users()

    async def log_in(self, user: str = "alice", password: str = PASSWORD, **headers: str) -> Response:
        body = {"user": user, "password": password}
        return await self.call("", "POST", "/session", body, {**OVER_TLS, **headers})

    async def session(self, user: str = "alice") -> dict[str, str]:
        """Headers with a session."""
        response = await self.log_in(user)
        cookie = response.headers["set-cookie"].partition(";")[0]
        return {**OVER_TLS, "Cookie": cookie, "X-CSRF-Token": response.document["csrfToken"]}

    async def by(self, headers: Mapping[str, str], method: str, path: str, body: Any = None) -> Response:
        return await self.call("", method, path, body, headers)


class SessionTests(SessionCase):
    async def test_logging_in_and_out(self) -> None:
        response = await self.log_in()
        self.assertEqual((response.status, response.document["user"]), (200, "alice"))
        self.assertRegex(
            response.headers["set-cookie"],
            r"^__Host-relayd-hub=[0-9a-f]{64}; Secure; HttpOnly; SameSite=Strict; Path=/$",
        )
        self.assertEqual(response.headers["cache-control"], "no-store")
        self.assertEqual(response.headers["strict-transport-security"], "max-age=31536000")
        session = await self.session()
        me = (await self.by(session, "GET", "/me")).document
        self.assertEqual((me["name"], me["role"], me["csrfToken"]), ("user:alice", "admin", session["X-CSRF-Token"]))
        listed = (await self.by(session, "GET", "/me/sessions")).document["items"]
        self.assertEqual([each["current"] for each in listed].count(True), 1)
        self.assertEqual((await self.by(session, "DELETE", "/session")).status, 204)
        self.assert_problem(await self.by(session, "GET", "/me"), 401, "not-authenticated")

    async def test_one_of_ones_own_sessions_is_ended(self) -> None:
        first, second = await self.session(), await self.session()
        listed = (await self.by(first, "GET", "/me/sessions")).document["items"]
        other = [each["id"] for each in listed if not each["current"]]
        for each in other:
            self.assertEqual((await self.by(first, "DELETE", f"/me/sessions/{each}")).status, 204)
        self.assert_problem(await self.by(second, "GET", "/me"), 401, "not-authenticated")
        self.assert_problem(await self.by(first, "DELETE", "/me/sessions/none"), 404, "no-such-session")

    async def test_failures(self) -> None:
        self.assert_problem(await self.log_in(password="wrong password"), 401, "login-failed")
        self.assert_problem(await self.log_in("nobody"), 401, "login-failed")
        for _ in range(7):
            response = await self.log_in("vera", "wrong password")
        self.assert_problem(response, 429, "login-throttled")
        self.assertGreater(int(response.headers["retry-after"]), 0)

    async def test_a_password_goes_over_tls_only(self) -> None:
        response = await self.log_in(**{"X-Forwarded-Proto": "http"})
        self.assert_problem(response, 403, "login-insecure")
        response = await self.call("", "POST", "/session", {"user": "alice", "password": PASSWORD})
        self.assertEqual(response.status, 200, "on the hub's own machine it may")
        self.assertTrue(response.headers["set-cookie"].startswith("relayd-hub-loopback="))
        cookie = response.headers["set-cookie"].partition(";")[0]
        self.assert_problem(await self.by({**OVER_TLS, "Cookie": cookie}, "GET", "/me"), 401, "not-authenticated")

    async def test_what_another_site_can_do_with_the_cookie(self) -> None:
        """Nothing, even if a browser sent it along."""
        session = await self.session()
        token = session.pop("X-CSRF-Token")
        host = {"name": "web-1"}
        own = {"Origin": f"https://127.0.0.1:{self.port}", "Sec-Fetch-Site": "same-origin"}
        for headers, code in (
            ({}, "csrf-token-wrong"),
            (own, "csrf-token-wrong"),
            ({"X-CSRF-Token": ""}, "csrf-token-wrong"),
            ({"X-CSRF-Token": "0" * 64}, "csrf-token-wrong"),
            ({"X-CSRF-Token": token, "Origin": "https://evil.example"}, "cross-site"),
            ({"X-CSRF-Token": token, "Origin": "null"}, "cross-site"),
            ({"X-CSRF-Token": token, "Origin": f"http://127.0.0.1:{self.port}"}, "cross-site"),
            ({"X-CSRF-Token": token, "Sec-Fetch-Site": "cross-site"}, "cross-site"),
            ({"X-CSRF-Token": token, "Sec-Fetch-Site": "same-site"}, "cross-site"),
        ):
            self.assert_problem(await self.by({**session, **headers}, "POST", "/hosts", host), 403, code)
        read = await self.by({**session, "Sec-Fetch-Site": "cross-site"}, "GET", "/hosts")
        self.assert_problem(read, 403, "cross-site")
        other = (await self.session("vera"))["X-CSRF-Token"]
        response = await self.by({**session, "X-CSRF-Token": other}, "POST", "/hosts", host)
        self.assert_problem(response, 403, "csrf-token-wrong")
        self.assertEqual((await self.call("alice", "GET", "/hosts")).document["items"], [])
        response = await self.by({**session, **own, "X-CSRF-Token": token}, "POST", "/hosts", host)
        self.assertEqual(response.status, 201)

    async def test_cookies_that_somebody_else_has_set(self) -> None:
        session = await self.session()
        value = session["Cookie"]
        for cookie in (f"{value}; __Host-relayd-hub={'0' * 64}", value.replace("__Host-", ""), f"x{value}"):
            self.assert_problem(await self.by({**session, "Cookie": cookie}, "GET", "/me"), 401, "not-authenticated")

    async def test_a_login_from_another_site(self) -> None:
        """It would put a person into the attacker's session."""
        self.assert_problem(await self.log_in(Origin="https://evil.example"), 403, "cross-site")

    async def test_a_temporary_password(self) -> None:
        """With it one may choose another one, and nothing else."""
        new = {"name": "nina", "password": OTHER_PASSWORD, "role": "operator", "selectors": None}
        response = await self.call("alice", "POST", "/users", new, status=201)
        self.assertNotIn("password", str(response.document).replace("passwordExpiresAt", ""))
        body = {"user": "nina", "password": OTHER_PASSWORD}
        login = await self.call("", "POST", "/session", body, OVER_TLS, 200)
        self.assertEqual((login.document["mustChangePassword"], login.document["scopes"]), (True, []))
        session = {
            **OVER_TLS,
            "Cookie": login.headers["set-cookie"].partition(";")[0],
            "X-CSRF-Token": login.document["csrfToken"],
        }
        self.assert_problem(await self.by(session, "GET", "/runs"), 403, "password-must-change")
        weak = {"current": OTHER_PASSWORD, "new": "password"}
        self.assert_problem(await self.by(session, "POST", "/me/password", weak), 422, "weak-password")
        change = {"current": OTHER_PASSWORD, "new": "canary third password"}
        self.assertEqual((await self.by(session, "POST", "/me/password", change)).status, 204)
        self.assert_problem(await self.by(session, "GET", "/me"), 401, "not-authenticated")
        self.assertEqual((await self.log_in("nina", "canary third password")).status, 200)

    async def test_secrets_are_not_shown(self) -> None:
        """Not even to who sent them with a mistake."""
        secret = "canary-7f3a"
        for body in ({"user": "alice", "password": [secret]}, {"user": 1, "password": secret}, {"passwd": secret}):
            response = await self.call("", "POST", "/session", body, OVER_TLS)
            self.assert_problem(response, 422, "invalid-request")
            self.assertNotIn(secret.encode(), response.body)


class UserTests(SessionCase):
    async def test_users(self) -> None:
        listed = (await self.call("alice", "GET", "/users?limit=2", status=200)).document
        self.assertEqual([user["name"] for user in listed["items"]], ["alice", "bob"])
        rest = (await self.call("alice", "GET", f"/users?limit=2&cursor={listed['next']}", status=200)).document
        self.assertEqual([user["name"] for user in rest["items"]], ["olga", "vera"])
        self.assertNotIn("next", rest)
        bob = await self.call("alice", "GET", "/users/bob", status=200)
        self.assertEqual(bob.document["selectors"], ["env=prod"])
        tag = bob.headers["etag"]
        patch = {"selectors": ["env=test"]}
        self.assert_problem(await self.call("alice", "PATCH", "/users/bob", patch), 428, "condition-missing")
        changed = await self.call("alice", "PATCH", "/users/bob", patch, {"If-Match": tag}, 200)
        self.assertNotEqual(changed.headers["etag"], tag)
        again = await self.call("alice", "PATCH", "/users/bob", patch, {"If-Match": tag})
        self.assert_problem(again, 412, "user-changed")
        self.assertEqual((await self.call("alice", "DELETE", "/users/bob", headers={"If-Match": "*"})).status, 204)
        self.assert_problem(await self.call("alice", "GET", "/users/bob"), 404, "no-such-user")
        last = await self.call("alice", "DELETE", "/users/alice", headers={"If-Match": "*"})
        self.assert_problem(last, 409, "last-administrator")

    async def test_nobody_makes_himself_more(self) -> None:
        """Fields that are not for the one who asks do not exist for him: mass assignment."""
        for method, path, body in (
            ("PATCH", "/users/bob", {"role": "admin"}),
            ("POST", "/users", {"name": "eve", "password": PASSWORD, "role": "admin"}),
            ("POST", "/users/alice/password", {"password": PASSWORD}),
        ):
            response = await self.call("bob", method, path, body, {"If-Match": "*"})
            self.assert_problem(response, 403, "forbidden")
        session = await self.session("bob")
        change = {"current": PASSWORD, "new": "canary third password", "role": "admin"}
        response = await self.by(session, "POST", "/me/password", change)
        self.assertEqual(self.assert_problem(response, 422, "invalid-request")["errors"][0]["pointer"], "/role")
        for field in ("id", "version", "createdAt", "passwordExpiresAt", "enabled", "password_hash"):
            new = {"name": "eve", "password": PASSWORD, "role": "viewer", field: 1}
            response = await self.call("alice", "POST", "/users", new)
            self.assertEqual(self.assert_problem(response, 422, "invalid-request")["errors"][0]["pointer"], f"/{field}")

    async def test_tokens(self) -> None:
        session = await self.session("bob")
        new = {"name": "ci", "scopes": ["runs:read"], "expiresAt": "2040-01-01T00:00:00+01:00"}
        made = await self.by(session, "POST", "/tokens", new)
        self.assertEqual(made.status, 201)
        text = made.document["text"]
        self.assertEqual(made.document["token"]["expiresAt"], "2039-12-31T23:00:00Z")
        self.assertEqual((await self.call(text, "GET", "/runs")).status, 200)
        self.assert_problem(await self.call(text, "GET", "/hosts"), 403, "forbidden")
        self.assert_problem(await self.call(text, "DELETE", "/session"), 401, "not-authenticated")
        own = (await self.by(session, "GET", "/tokens")).document["items"]
        self.assertEqual([each["name"] for each in own], ["all", "ci"])
        self.assertNotIn(text, str(own))
        others = (await self.call("alice", "GET", "/tokens?everybody=true")).document["items"]
        self.assertEqual(len(others), 5)
        self.assert_problem(await self.by(session, "GET", "/tokens?everybody=true"), 403, "forbidden")
        alices = next(each["id"] for each in others if each["userId"] != own[0]["userId"])
        self.assert_problem(await self.by(session, "DELETE", f"/tokens/{alices}"), 404, "no-such-token")
        more = {"name": "more", "scopes": ["access:admin"]}
        self.assert_problem(await self.by(session, "POST", "/tokens", more), 403, "forbidden")
        for wrong in ({"scopes": []}, {"scopes": ["all"]}, {"expiresAt": "2040-01-01T00:00:00"}, {"expiresAt": 5}):
            response = await self.by(session, "POST", "/tokens", {**new, **wrong})
            self.assert_problem(response, 422, "invalid-request")
        self.assertEqual((await self.by(session, "DELETE", f"/tokens/{made.document['token']['id']}")).status, 204)
        self.assert_problem(await self.call(text, "GET", "/runs"), 401, "not-authenticated")
