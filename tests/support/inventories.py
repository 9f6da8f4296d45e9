"""
Hosts for tests of the inventory.
"""

from __future__ import annotations

from hypothesis import strategies as st

from relayd.hub.inventory.checks import HostMistake, checked_host
from relayd.hub.store.host_records import Host

_NAMES = st.one_of(
    st.from_regex(r"\A[a-z0-9][a-z0-9.-]{0,20}[a-z0-9]\Z"),
    st.from_regex(r"\A\w[\w.@+~-]{0,10}\Z"),
    st.sampled_from(("2001:db8::1", "web", "yes", "null", "1e3", "0x10", "~", "上海-1", "12:30:45", "2020-01-01")),
)
_VALUES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ("", "=1+1", "a, b; c", "'", "''x", "{{ x }}", "yes", "1", "# no comment", "@SUM(A1)", "-", "None")
    ),
)
_KEYS = st.one_of(st.from_regex(r"\A\w[\w.:/+~-]{0,10}\Z"), st.sampled_from(("env", "web", "ungrouped", "yes")))


def _made(given: dict[str, object]) -> Host | None:
    try:
        return checked_host(given)
    except HostMistake:
        return None


#: Any host that the hub may hold.
HOSTS: st.SearchStrategy[Host] = (
    st.fixed_dictionaries(
        {
            "name": _NAMES,
            "address": st.one_of(_NAMES, st.sampled_from(("10.0.0.1", "fe80::1%eth0", "db．internal"))),
            "port": st.integers(1, 65535),
            "user": st.one_of(_VALUES, st.sampled_from(("root", "=cmd|'/c calc'!A1", "+x", "DOMAIN\\user"))),
            "relays": st.lists(_NAMES, max_size=3, unique=True),
            "labels": st.dictionaries(_KEYS, _VALUES, max_size=4),
            "via": st.sampled_from(("", "bastion", "jump@[2001:db8::2]:2222,second:22")),
            "hostKey": st.sampled_from(("", "SHA256:" + "a" * 43, "ssh-ed25519 SHA256:" + "b" * 43)),
            "credential": st.one_of(st.none(), _NAMES),
        }
    )
    .map(_made)
    .filter(lambda host: host is not None)
    .map(lambda host: host or Host(name="", address=""))
)
