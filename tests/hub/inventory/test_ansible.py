"""
Inventories of Ansible.  `tests.peers.test_ansible` compares what is read with what Ansible itself reads.
"""

from __future__ import annotations

import time

from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.inventory.plans import Parsed
from relayd.hub.inventory.texts import ReadFormat, read_inventory
from relayd.hub.store.host_records import Host

SECRET = "hunter2-s3cret"


class AnsibleCase(SynchronousTestCase):
    form: ReadFormat

    def read(self, text: str) -> Parsed:
        return read_inventory(text, self.form)

    def hosts(self, text: str) -> dict[str, Host]:
        parsed = self.read(text)
        self.assertEqual(parsed.errors, [])
        return {planned.host.name: planned.host for planned in parsed.hosts}

    def said(self, text: str, kind: str = "warning") -> list[tuple[int | None, str]]:
        return [(remark.line, remark.text) for remark in self.read(text).remarks if remark.kind == kind]


class INITests(AnsibleCase):
    form = "ansible-ini"

    def test_groups_become_labels(self) -> None:
        hosts = self.hosts("lone\n[web]\na\n[db]\nb\na\n[prod:children]\nweb\n[all:vars]\nx=1\n[ungrouped]\na\n")
        self.assertEqual(
            {name: host.labels for name, host in hosts.items()},
            {"lone": {}, "a": {"db": "", "prod": "", "web": ""}, "b": {"db": ""}},
        )

    def test_host_before_child_before_parent_before_all(self) -> None:
        text = (
            "[all:vars]\nansible_user=everyone\nansible_port=1\n[prod:children]\nweb\n[prod:vars]\nansible_user=prod\n"
            "[web]\na ansible_user=own\nb\n[web:vars]\nansible_user=web\n[other]\nc\n"
        )
        hosts = self.hosts(text)
        self.assertEqual({name: host.user for name, host in hosts.items()}, {"a": "own", "b": "web", "c": "everyone"})
        self.assertEqual({host.port for host in hosts.values()}, {1})

    def test_of_groups_of_one_depth_the_last_by_priority_and_name_wins(self) -> None:
        text = "[x]\na\n[b]\na\n[x:vars]\nansible_user=x\n[b:vars]\nansible_user=b\n"
        self.assertEqual(self.hosts(text)["a"].user, "x")
        self.assertEqual(self.hosts(f"{text}ansible_group_priority=10\n")["a"].user, "b")
        self.assertEqual(
            self.said(f"{text}ansible_group_priority=high\n", "error"), [(9, "ansible_group_priority is not a number")]
        )

    def test_ranges(self) -> None:
        hosts = self.hosts(
            "web[08:10].example.com\nx-[a:c]:2222\nn[1:5:2]-[0:1]\n[2001:db8::1]:23\n10.0.0.[1:2]\n[:1]z\n"
        )
        self.assertEqual(
            list(hosts),
            [
                *("web08.example.com", "web09.example.com", "web10.example.com"),
                *("x-a", "x-b", "x-c"),
                *("n1-0", "n1-1", "n3-0", "n3-1", "n5-0", "n5-1"),
                *("2001:db8::1", "10.0.0.1", "10.0.0.2", "0z", "1z"),
            ],
        )
        self.assertEqual({hosts["x-b"].port, hosts["2001:db8::1"].port, hosts["n1-0"].port}, {2222, 23, 22})
        for pattern, words in (
            ("a[1:999999999999]", "stands for more than 20000 hosts"),
            ("a[1:200][1:200]", "stands for more than 20000 hosts"),
            ("a[01:100]", "both of its ends need the same length"),
            ("a[1:b]", "neither a number nor a letter"),
            ("a[c:a]", "ends before it begins"),
            ("a[1:2:3:4]", "is not of the form"),
            ("a[1:2:0]", "neither a number nor a letter"),
        ):
            [(line, text)] = self.said(f"\n{pattern}\n", "error")
            self.assertEqual(line, 2)
            self.assertIn(words, text)

    def test_quotes_and_comments(self) -> None:
        hosts = self.hosts(
            '; comment\n# comment\na ansible_user="two words" # comment ansible_port=1\nb ansible_user=x#y\n'
            "c ansible_port='22' ansible_host='10.0.0.1'\n[g] # comment\nd\n[g:vars]\nansible_user = it's # me\n"
        )
        self.assertEqual([host.user for host in hosts.values()], ["two words", "x", "", "it's # me"])
        self.assertEqual((hosts["c"].port, hosts["c"].address), (22, "10.0.0.1"))

    def test_a_child_may_be_named_before_it_is_there(self) -> None:
        hosts = self.hosts("[top:children]\nmiddle\n[middle:children]\nlow # comment\n[low]\na\n")
        self.assertEqual(hosts["a"].labels, {"low": "", "middle": "", "top": ""})

    def test_what_is_wrong(self) -> None:
        for text, line, words in (
            ("[a b]\n", 1, "is not a section"),
            ("[a:hosts2]\nx\n", 1, "is neither :vars nor :children"),
            ("[a:vars]\nx=1\n", 1, "for a group that no section names"),
            ("[a]\nx\n[b:children]\na\nc\n", 5, "no section names the group c"),
            ("[a:children]\nb\n[b:children]\na\n", 4, "the group a is a child of b, and above it, too"),
            ("[a]\n[a:vars]\nnothing\n", 3, "name=value is expected below [a:vars]"),
            (f"a ansible_password=x {SECRET}\n", 1, "name=value is expected after the host"),
            (f"a ansible_password='{SECRET}\n", 1, "a quotation mark or a backslash has no counterpart"),
            ("\n---\nall:\n", 2, "is how YAML begins"),
            ("a:\n", 1, "ends with a colon"),
            ("a ansible_port=ssh\n", 1, "port is not a number"),
            ("[g]\na\n[g:vars]\n\nansible_port=0\n", 5, "port is not a whole number"),
            ("a ansible_host=b:22\n", 1, "address names a port too"),
            ("a ansible_host=\"{{ lookup('env', 'X') }}\"\n", 1, "does not evaluate the template"),
            ("a relayd_labels=\"{'x y': 1}\"\n", 1, 'labels "x y" is not the key of a label'),
            ("a relayd_labels=3\n", 1, "relayd_labels is neither"),
        ):
            errors = self.said(text, "error")
            self.assertEqual(errors[0][0], line, (text, errors))
            self.assertIn(words, errors[0][1])
            self.assertNotIn(SECRET, repr(self.read(text)))

    def test_secrets_are_not_taken_and_not_shown(self) -> None:
        text = (
            f"a ansible_password={SECRET}\nb ansible_ssh_pass={SECRET} ansible_become_password={SECRET}\n"
            f"c ansible_ssh_private_key_file=~/.ssh/id_rsa ansible_sudo_pass={SECRET}\n[g]\nd\ne\n[g:vars]\n"
            f"ansible_ssh_private_key_passphrase={SECRET}\n"
        )
        self.assertEqual(
            [(line, words.partition(" ")[0]) for line, words in self.said(text)],
            [
                (1, "ansible_password"),
                (2, "ansible_ssh_pass"),
                (2, "ansible_become_password"),
                (3, "ansible_ssh_private_key_file"),
                (3, "ansible_sudo_pass"),
                (8, "ansible_ssh_private_key_passphrase"),
            ],
        )
        self.assertNotIn(SECRET, repr(self.read(text)))
        self.assertEqual(len(self.hosts(text)), 5)

    def test_what_is_not_of_ssh_is_left_out(self) -> None:
        text = "a ansible_connection=local\nb ansible_connection=winrm\n"
        text += "c ansible_connection=ansible.netcommon.network_cli\n"
        self.assertEqual(list(self.hosts(text)), ["c"])
        self.assertEqual([line for line, _ in self.said(text)], [1, 2])

    def test_jump_hosts(self) -> None:
        for arguments, via in (
            ("-J jump@bastion:2222", "jump@bastion:2222"),
            ("-o ProxyJump=one,two", "one,two"),
            ('-oProxyJump="[2001:db8::1]:22" -C', "[2001:db8::1]:22"),
            ("-o 'ProxyJump one' -o StrictHostKeyChecking=no", "one"),
            ("-o ProxyJump=$HOST:x", ""),
            ("-o ProxyCommand='ssh -W %h:%p bastion'", ""),
            ("-o 'ProxyJump", ""),
        ):
            text = f"[g]\na\nb\n[g:vars]\nansible_ssh_common_args={arguments}\n"
            self.assertEqual({host.via for host in self.hosts(text).values()}, {via})
            [(line, words)] = self.said(text)
            self.assertEqual(line, 5)
            self.assertIn(f"{via} is taken as via" if via else "not taken", words)
        self.assertEqual(self.said("a ansible_ssh_common_args='-C -o ControlMaster=auto'\n"), [])

    def test_own_variables(self) -> None:
        text = "[g]\na relayd_credential=ops\n[g:vars]\nrelayd_relays=paris, oslo\nrelayd_via=b\n"
        text += "relayd_labels=env=prod; n=1\n"
        host = self.hosts(text)["a"]
        self.assertEqual((host.relays, host.credential, host.via), (("paris", "oslo"), "ops", "b"))
        self.assertEqual(host.labels, {"env": "prod", "g": "", "n": "1"})
        self.assertEqual(self.hosts("a relayd_relays=\"['x', 'y']\"\n")["a"].relays, ("x", "y"))

    def test_plain_templates_are_filled_in(self) -> None:
        text = "web.x ansible_host='{{ inventory_hostname_short }}.{{ zone }}' zone={{inner}} inner=example.com\n"
        self.assertEqual(self.hosts(text)["web.x"].address, "web.example.com")
        self.assertIn("does not evaluate", self.said("a ansible_host={{a}} a={{a}}\n", "error")[0][1])
        self.assertNotIn(
            SECRET, repr(self.read(f"a ansible_host={{{{ansible_password}}}} ansible_password={SECRET}\n"))
        )

    def test_groups_that_cannot_be_labels_are_said(self) -> None:
        hosts = self.hosts("[in]\na\n[we!b]\na\n")
        self.assertEqual(hosts["a"].labels, {})
        self.assertEqual([line for line, _ in self.said("[in]\na\n[we!b]\na\n")], [1, 3])
        self.assertIn("the name of a host and of a group", self.said("[a]\na\n")[0][1])


class YAMLTests(AnsibleCase):
    form = "ansible-yaml"

    def test_groups_vars_and_children(self) -> None:
        text = """
all:
  vars: {ansible_user: everyone}
  hosts:
    lone: {ansible_port: "2022"}
  children:
    prod:
      vars:
        relayd_relays: [paris, oslo]
        relayd_labels: {env: prod, n: 3, live: true}
      children:
        web:
          hosts:
            web[1:2].example.com:
              ansible_host: 10.0.0.1
            lone:
    empty:
"""
        hosts = self.hosts(text)
        self.assertEqual(list(hosts), ["lone", "web1.example.com", "web2.example.com"])
        self.assertEqual((hosts["lone"].port, hosts["lone"].user), (2022, "everyone"))
        self.assertEqual(hosts["web1.example.com"].relays, ("paris", "oslo"))
        self.assertEqual(hosts["lone"].labels, {"env": "prod", "live": "true", "n": "3", "prod": "", "web": ""})

    def test_secrets_are_not_taken(self) -> None:
        text = f"all:\n  hosts:\n    a:\n      ansible_password: !vault |\n        {SECRET}\n"
        text += f"      token: !vault x\n      ansible_ssh_pass: {SECRET}\n"
        self.assertEqual([line for line, _ in self.said(text)], [4, 6, 7])
        self.assertNotIn(SECRET, repr(self.read(text)))
        self.assertIn("has the tag !vault", self.said("all: {hosts: {a: {ansible_user: !vault x}}}", "error")[0][1])

    def test_merges_and_aliases(self) -> None:
        text = "all:\n  hosts:\n    a: &d {ansible_user: x, ansible_port: 1}\n    b: *d\n"
        text += "    c:\n      <<: *d\n      ansible_port: 2\n"
        hosts = self.hosts(text)
        self.assertEqual([(host.user, host.port) for host in hosts.values()], [("x", 1), ("x", 1), ("x", 2)])

    def test_twice(self) -> None:
        text = "all:\n  hosts:\n    a: {ansible_port: 1}\n    a: {ansible_port: 2}\n"
        self.assertEqual(self.hosts(text)["a"].port, 2)
        self.assertEqual(self.said(text), [(4, "a is here for the second time; as with Ansible, the last one wins")])

    def test_what_is_wrong(self) -> None:
        for text, line, words in (
            ("", 1, "at its top there have to be groups"),
            ("- a\n", 1, "at its top there have to be groups"),
            ("all:\n  hosts: [a]\n", 2, "hosts of the group all has to be a mapping"),
            ("all:\n  hosts:\n    10: {}\n", 3, 'the name of a host is not a text: "10"'),
            ("all:\n  hosts:\n    a: 3\n", 3, "below the host a there has to be a mapping"),
            ("all:\n  children:\n    yes: {}\n", 3, "the name of a group is not a text"),
            ("plugin: aws_ec2\n", 1, "is the configuration of a plugin"),
            ("all:\n\t- x\n", 2, "is not YAML"),
            ("a: 1\n---\nb: 1\n", 2, "a second document begins"),
            ("a: {children: {b: {children: {a: }}}}\n", 1, "is a child of"),
            ("? [a]\n: b\n", 1, "a key is not a text"),
            ("a: !!int x\n", 1, "a value is not of the type"),
            ("a: *b\n", 1, "an alias stands for something"),
        ):
            errors = self.said(text, "error")
            self.assertEqual(errors[0][0], line, (text, errors))
            self.assertIn(words, errors[0][1])

    def test_what_is_left_out_is_said(self) -> None:
        text = "all:\n  hosts: a\n  colour: {x: 1}\n  x: 3\nother: 5\n"
        self.assertEqual(list(self.hosts(text)), ["a"])
        self.assertEqual([line for line, _ in self.said(text)], [3, 4, 5])

    def test_no_text_costs_much(self) -> None:
        """Billion laughs, groups that alias each other, a deep nest, and objects of Python."""
        laughs = "a0: &a0 {hosts: {h: }}\n"
        for number in range(1, 12):
            children = ", ".join(f"c{number}{each}: *a{number - 1}" for each in range(9))
            laughs += f"a{number}: &a{number} {{children: {{{children}}}}}\n"
        merges = "x0: &x0 {" + ", ".join(f"k{number}: 1" for number in range(2000)) + "}\n"
        merges += "".join(f"x{number}: {{<<: [{', '.join(['*x0'] * 50)}]}}\n" for number in range(1, 60))
        for text, words in (
            (laughs, "there are more than 50000 groups"),
            (merges, "it has more than 1000000 values"),
            ("a: &a [*a]", "an alias stands for something that has not ended"),
            ("{a: " * 5000, "nest"),
            ("[" * 100_000, "nest"),
            ("a: !!python/object/apply:os.system [x]", "a is left out"),
        ):
            before = time.process_time()
            self.assertIn(words, self.read(text).remarks[-1].text)
            self.assertLess(time.process_time() - before, 30)
