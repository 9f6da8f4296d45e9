"""
Tests of `relayd.hub.access.permissions`: which role and which token may do what.
"""

from __future__ import annotations

from itertools import product

from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.access.errors import Forbidden, PasswordMustChange, Unusable
from relayd.hub.access.permissions import ROLES, Permission, Role, parse_role, parse_scopes, permissions_of
from tests.support.access import principal

_READ = {Permission.RUNS_READ, Permission.INVENTORY_READ, Permission.RELAYS_READ}


class RoleTests(SynchronousTestCase):
    """The table of roles."""

    def test_every_permission_has_its_row(self) -> None:
        self.assertEqual(set(ROLES), set(Permission))

    def test_roles(self) -> None:
        """By hand: a change of the table is meant."""
        self.assertEqual(permissions_of(Role.VIEWER), _READ)
        self.assertEqual(permissions_of(Role.OPERATOR), _READ | {Permission.RUNS_WRITE})
        self.assertEqual(permissions_of(Role.ADMIN), set(Permission))

    def test_names(self) -> None:
        self.assertIs(parse_role("operator"), Role.OPERATOR)
        error = self.assertRaises(Unusable, parse_role, "root\n")
        self.assertIn("root\N{REPLACEMENT CHARACTER} is not one of viewer, operator, admin", str(error))
        self.assertEqual(parse_scopes(["runs:read", "runs:read"]), {Permission.RUNS_READ})
        self.assertIn("runs:all is not one of", str(self.assertRaises(Unusable, parse_scopes, ["runs:all"])))
        self.assertIn("can do nothing", str(self.assertRaises(Unusable, parse_scopes, [])))


class PrincipalTests(SynchronousTestCase):
    """Who asks."""

    def test_a_session_has_all_of_its_role(self) -> None:
        for role in Role:
            self.assertEqual(principal(role=role).scopes, permissions_of(role))

    def test_a_token_never_has_more_than_its_role(self) -> None:
        for role, scope in product(Role, Permission):
            token = principal(role=role, token="ci", token_scopes=frozenset({scope}))
            expected = {scope} & permissions_of(role)
            self.assertEqual(token.scopes, expected)
            for each in Permission:
                self.assertEqual(token.may(each), each in expected, (role, scope, each))

    def test_what_it_may_not(self) -> None:
        viewer = principal(role=Role.VIEWER)
        viewer.require(Permission.RUNS_READ)
        error = self.assertRaises(Forbidden, viewer.require, Permission.RUNS_WRITE)
        self.assertEqual(
            str(error), "This needs the permission runs:write, which user:alice does not have. Ask an administrator."
        )

    def test_a_temporary_password_allows_nothing(self) -> None:
        fresh = principal(role=Role.ADMIN, must_change_password=True)
        self.assertEqual(fresh.scopes, frozenset())
        self.assertRaises(PasswordMustChange, fresh.require, Permission.RUNS_READ)

    def test_names(self) -> None:
        self.assertEqual(principal().name, "user:alice")
        self.assertEqual(principal(token="ci").name, "token:alice/ci")

    def test_only_operators_have_limits(self) -> None:
        self.assertEqual(principal(role=Role.OPERATOR, selectors=("env=prod",)).limits, ("env=prod",))
        self.assertIsNone(principal(role=Role.ADMIN, selectors=("env=prod",)).limits)
        self.assertIsNone(principal(role=Role.OPERATOR).limits)
