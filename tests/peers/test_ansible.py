"""
Inventories as Ansible itself reads them: for each host the same groups, the same variables and so the same login.

``tests/bootstrap.sh peers`` brings Ansible; where it cannot, these tests are not there.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.inventory.ansible_groups import Groups
from relayd.hub.inventory.ansible_ini import IniReader
from relayd.hub.inventory.ansible_yaml import YamlReader
from relayd.hub.inventory.plans import Collector, Defaults
from relayd.hub.inventory.texts import ReadFormat, read_inventory, write_inventory
from relayd.hub.store.host_records import Host
from tests.support.inventories import HOSTS

ANSIBLE: Final = Path(__file__).parents[2] / "build" / "ansible" / "bin" / "python"
#: Reads many inventories in one process, as each start of ansible-inventory takes a second.
PROGRAM: Final = """
import json, sys
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.vars.manager import VariableManager

OWN = "ansible_playbook_python", "ansible_version", "ansible_facts", "ansible_inventory_sources", "ansible_config_file"
found = []
for path in json.load(sys.stdin):
    loader = DataLoader()
    inventory = InventoryManager(loader=loader, sources=[path])
    read = {}
    for host in inventory.get_hosts("all"):
        variables = VariableManager(loader=loader, inventory=inventory).get_vars(host=host, include_hostvars=False)
        groups = sorted(g.name for g in host.get_groups() if g.name not in ("all", "ungrouped"))
        kept = {str(k): str(v) for k, v in variables.items() if str(k).startswith(("ansible_", "x_"))}
        read[str(host.name)] = [groups, {k: v for k, v in kept.items() if k not in OWN}]
    found.append(read)
print(json.dumps(found))
"""

INVENTORIES: Final[tuple[tuple[ReadFormat, str], ...]] = (
    (
        "ansible-ini",
        """
; a comment
lone.example.com:2222 ansible_user="two words" # comment ansible_port=1
[web]
web[01:03].example.com ansible_port=2200 x_list=['a',"b"] x_bool=False x_quoted="'03#pa33w0rd'"
x-[a:c:2]:2023
web01.example.com ansible_user=x#y
[web:vars]
ansible_user=webber
x_text = it's # all of it
x_number = 017
[db]
db1 ansible_host=10.0.0.1 ansible_port='22'
web02.example.com
[2001:db8::1]:2022
10.0.0.[1:3]
[top:children]
prod
[prod:children]
web # both
db
[prod:vars]
ansible_user=prodder
ansible_port=2022
[zone]
db1
[zone:vars]
ansible_port=5
x_zone=z
[area]
db1
[area:vars]
x_zone=a
ansible_group_priority=7
[all:vars]
ansible_user=everyone
x_all={'a': 1}
[ungrouped]
web03.example.com
last
""",
    ),
    (
        "ansible-yaml",
        """
all:
  vars: {ansible_user: everyone, x_list: [1, b]}
  hosts:
    lone: {ansible_port: 2022, x_unsafe: !unsafe "{{ x }}"}
    h[1:3:2]-[a:b]: &same {x_a: 1, x_yes: yes, x_octal: 017, x_text: "yes"}
  children:
    prod:
      vars: {ansible_user: prodder, x_merged: 1}
      children:
        web:
          vars: {x_web: w}
          hosts:
            lone:
            merged:
              <<: *same
              x_a: 2
            host:2222:
        db:
          hosts: only
    empty:
web:
  vars: {x_late: 1}
other:
  hosts:
    only: {x_own: 1}
""",
    ),
    (
        "ansible-ini",
        """
[ungrouped]
alone
a1
[ungrouped:vars]
x_own=ungrouped
[alpha]
a1
[zeta:children]
alpha
[zeta:vars]
x_v=the parent
[alpha:vars]
x_v=the child, though its name comes first
[far:children]
between
[between:children]
alpha
[between:vars]
x_w=by the longer way
x_v=above the child, by the longer way
[zeta:vars]
x_w=by the shorter way
""",
    ),
    ("ansible-yaml", "ungrouped: {hosts: {a: , b: {x_a: 1}}}\nall: {vars: {x_b: 2}}\n"),
    ("ansible-ini", "a\na x_a=1\n[g]\na x_a=2 x_b=\n[g:vars]\nx_c=\nx_d='q'\nx_e=[1, 2\n"),
)
WRONG: Final[tuple[tuple[ReadFormat, str], ...]] = (
    ("ansible-ini", "[a b]\nx\n"),
    ("ansible-ini", "[a:vars]\nx=1\n"),
    ("ansible-ini", "[a:children]\nb\n"),
    ("ansible-ini", "[a:what]\nb\n"),
    ("ansible-ini", "[a:children]\nb\n[b:children]\na\n"),
    ("ansible-ini", "a b\n"),
    ("ansible-ini", "a x='\n"),
    ("ansible-ini", "a:\n"),
    ("ansible-ini", "a[01:100]\n"),
    ("ansible-yaml", "- a\n"),
    ("ansible-yaml", "all: {hosts: [a]}\n"),
    ("ansible-yaml", "all: {hosts: {10: }}\n"),
    ("ansible-yaml", "a: {children: {b: {children: {a: }}}}\n"),
)


def ours(text: str, form: ReadFormat) -> dict[str, Any]:
    """What the program of Ansible says, by our own reading."""
    collector = Collector(Defaults())
    groups: Groups = (IniReader if form == "ansible-ini" else YamlReader)(collector).read(text)
    found: dict[str, Any] = {}
    for name, host in groups.hosts.items():
        names, variables = groups.joined(host)
        kept = {
            key: str(each.value) for key, each in variables.items() if key.startswith(("ansible_", "relayd_", "x_"))
        }
        found[name] = [sorted(names), kept]
    return found


def theirs(folder: Path, inventories: list[tuple[ReadFormat, str]]) -> list[dict[str, Any]]:
    """What Ansible reads."""
    paths = []
    for number, (form, text) in enumerate(inventories):
        path = folder / f"{number}{'.yml' if form == 'ansible-yaml' else ''}"
        path.write_text(text, encoding="utf-8")
        paths.append(str(path.absolute()))
    environ = {**os.environ, "ANSIBLE_HOME": str(folder.absolute()), "LC_ALL": "C.UTF-8"}
    argv = [str(ANSIBLE), "-c", PROGRAM]
    given = json.dumps(paths)
    done = subprocess.run(argv, check=False, input=given, capture_output=True, text=True, env=environ, timeout=120)
    if done.returncode:
        raise AssertionError(done.stderr)
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


if ANSIBLE.exists():

    class AnsibleTests(SynchronousTestCase):
        def setUp(self) -> None:
            self.folder = Path(self.mktemp())
            self.folder.mkdir()

        def test_the_same_hosts_groups_and_variables(self) -> None:
            for (form, text), read in zip(INVENTORIES, theirs(self.folder, list(INVENTORIES)), strict=True):
                found = ours(text, form)
                self.assertEqual(set(found), set(read))
                for name, expected in read.items():
                    self.assertEqual(found[name], expected, name)

        def test_what_it_refuses_is_refused(self) -> None:
            """Ansible goes on without an inventory that it cannot read, and knows no host then."""
            for (form, text), read in zip(WRONG, theirs(self.folder, list(WRONG)), strict=True):
                self.assertEqual(read, {}, text)
                self.assertNotEqual(read_inventory(text, form).errors, [], text)

        @settings(
            max_examples=5,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
        )
        @given(st.lists(HOSTS, max_size=8, unique_by=lambda host: host.name))
        def test_it_reads_what_the_hub_writes(self, hosts: list[Host]) -> None:
            [read] = theirs(self.folder, [("ansible-yaml", write_inventory(hosts, "ansible-yaml"))])
            self.assertEqual(set(read), {host.name for host in hosts})
            for host in hosts:
                groups, variables = read[host.name]
                self.assertEqual(set(groups), {key for key, value in host.labels.items() if not value} - {"ungrouped"})
                self.assertEqual(variables.get("ansible_host", host.name), host.address)
                self.assertEqual(variables["ansible_port"], str(host.port))
                self.assertEqual(variables.get("ansible_user", ""), host.user)
