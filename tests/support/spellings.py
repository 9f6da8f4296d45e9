"""
Addresses that a site forbids unless it names them, and all the ways to write an address.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import strategies as st

METADATA = "169.254.169.254"


def ipv4_spellings(address: IPv4Address) -> st.SearchStrategy[str]:
    """How inet_aton(3), IPv6 and people write an IPv4 address."""
    number, parts = int(address), address.packed
    a, b, c, d = parts
    forms = [
        str(address),
        f"{address}.",
        str(number),
        f"0x{number:x}",
        f"0X{number:08X}",
        f"0{number:o}",
        f"{a}.{number & 0xFFFFFF}",
        f"{a}.{b}.{number & 0xFFFF}",
        f"0x{a:x}.0{b:o}.{c}.0x{d:02x}",
        f"000{a:o}.{b}.{c << 8 | d}",
        f"::ffff:{address}",
        f"::FFFF:{a << 8 | b:x}:{c << 8 | d:X}",
        f"0:0:0:0:0:ffff:{address}",
        f"::{address}",
        f"::ffff:0:{address}",
        f"64:ff9b::{address}",
        f"0064:FF9B:0::{address}",
        f"64:ff9b:1::{address}",
        f"2002:{a << 8 | b:x}:{c << 8 | d:x}::1",
        str(address).replace(".", "\N{IDEOGRAPHIC FULL STOP}"),
        "".join(chr(ord(char) + 0xFEE0) for char in str(address)),  # full-width
    ]
    return st.sampled_from(forms)


SPECIAL_V4 = st.one_of(
    st.sampled_from([METADATA, "0.0.0.0", "255.255.255.255", "100.100.100.200"]).map(IPv4Address),
    st.integers(int(IPv4Address("169.254.0.0")), int(IPv4Address("169.254.255.255"))).map(IPv4Address),
    st.integers(int(IPv4Address("224.0.0.0")), int(IPv4Address("239.255.255.255"))).map(IPv4Address),
)
SPECIAL_V6 = st.one_of(
    st.just(IPv6Address("::")),
    st.just(IPv6Address("fd00:ec2::254")),
    st.integers(int(IPv6Address("fe80::")), int(IPv6Address("febf::ffff"))).map(IPv6Address),
    st.integers(int(IPv6Address("ff00::")), 2**128 - 1).map(IPv6Address),
)
