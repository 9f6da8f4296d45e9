"""
Reads the values that only the hub's options have, as `relayd.config.values` does for all programs.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

from relayd.network.patterns import read_network

#: The most networks of reverse proxies.
_MOST_NETWORKS = 64


def networks(value: str) -> tuple[str, ...]:
    """Networks or addresses, separated by commas, in their canonical spelling."""
    found = []
    for part in value.split(","):
        try:
            found.append(str(read_network(part.strip())))
        except ValueError:
            raise ValueError("networks like 10.0.0.0/8, or addresses", part.strip()) from None
    if len(found) > _MOST_NETWORKS:
        raise ValueError(f"at most {_MOST_NETWORKS} networks")
    return tuple(found)


def public_url(value: str) -> str:
    """The URL of the hub as others reach it: ``https://HOST[:PORT]``, without a path."""
    parts = _split(value)
    if parts is None or parts[0] not in ("http", "https"):
        raise ValueError("a URL like https://hub.example.com")
    scheme, netloc, rest = parts
    if "@" in value or rest.strip("/"):
        raise ValueError("a URL without user, path and query, like https://hub.example.com:8443")
    return f"{scheme}://{netloc}"


def database_url(value: str) -> str:
    """The URL of a PostgreSQL database, as libpq has it: ``postgresql://[USER[:PASSWORD]@]HOST[:PORT]/NAME``."""
    value = value.strip()
    parts = _split(value)
    scheme = value.partition(":")[0].lower()
    if parts is None and scheme in ("postgresql", "postgres") and value.isprintable() and " " not in value:
        parts = (scheme, "", "")  # postgresql:///NAME: a UNIX socket
    if parts is None or parts[0] not in ("postgresql", "postgres"):
        raise ValueError("a URL like postgresql://HOST/NAME")
    return f"postgresql:{value.partition(':')[2]}"


def password_in(url: str) -> bool:
    """Whether a `database_url` holds a password."""
    parts = urlsplit(url)
    return bool(parts.password) or any(name == "password" for name, _ in parse_qsl(parts.query))


def without_password(url: str) -> str:
    """A `database_url` for people: without user, password and query."""
    parts = urlsplit(url)
    return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _split(value: str) -> tuple[str, str, str] | None:
    """Scheme, host and port, and the rest; ``None``: it is no URL with a host."""
    value = value.strip()
    try:
        parts = urlsplit(value)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    if not usable or not value.isprintable() or set(value) & set(" \\"):
        return None
    query = f"?{parts.query}" if parts.query else ""
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    return parts.scheme, parts.netloc, f"{parts.path}{query}{fragment}"
