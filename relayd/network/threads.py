"""
The reactor's thread pool, for what would hold up the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

T = TypeVar("T")


def in_pool(reactor: Any, function: Callable[..., T], *args: Any) -> Deferred[T]:
    """
    Run *function* in a thread of the pool of *reactor*, which need not be the global one.

    :return: fires with what it returns, or fails as it does.
    """
    running: Deferred[T] = deferToThreadPool(reactor, reactor.getThreadPool(), function, *args)
    return running
