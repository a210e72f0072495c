"""One xdist worker per host: each worker collects only its own host's items and runs them in order.

xdist's own schedulers deal items out to whoever is free; two workers would drive one host. The rules that this
follows were found by trying: a worker holds back its last item until it knows the next one, so two are kept in
flight; the replacement of a crashed worker inherits the host through the gateway's spec object.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest

IN_FLIGHT = 2


class HostScheduler:
    """Implements xdist's ``Scheduling`` protocol; a node is a worker."""

    def __init__(self, config: pytest.Config, numnodes: int) -> None:
        self.config = config  # other plugins read this attribute
        self.numnodes = numnodes
        self._collected: dict[str, list[str]] = {}
        self._queues: dict[str, deque[int]] = {}
        self._sent: dict[Any, list[int]] = {}
        self._scheduled = False

    @staticmethod
    def host_of(node: Any) -> str:
        return str(node.workerinput["vmmcheck_host"])

    @property
    def nodes(self) -> list[Any]:
        return list(self._sent)

    @property
    def collection_is_completed(self) -> bool:
        return len(self._collected) >= self.numnodes

    @property
    def tests_finished(self) -> bool:
        return (
            self._scheduled
            and not any(self._queues.values())
            and all(len(sent) < IN_FLIGHT for sent in self._sent.values())
        )

    @property
    def has_pending(self) -> bool:
        return any(self._queues.values()) or any(self._sent.values())

    def add_node(self, node: Any) -> None:
        self._sent[node] = []

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        host = self.host_of(node)
        known = self._collected.get(host)
        if known is not None and known != list(collection):
            raise RuntimeError(f"The replacement worker of '{host}' collected other tests than the first one.")
        if known is None:
            self._collected[host] = list(collection)
            self._queues[host] = deque(range(len(collection)))

    def schedule(self) -> None:
        self._scheduled = True
        for node, sent in list(self._sent.items()):
            if not sent and self.host_of(node) in self._collected:
                self._feed(node)

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
        self._sent[node].remove(item_index)
        self._feed(node)

    def mark_test_pending(self, item: str) -> None:
        for host, collection in self._collected.items():
            if item in collection:
                self._queues[host].appendleft(collection.index(item))
        for node in self._sent:
            self._feed(node)

    def remove_pending_tests_from_node(self, node: Any, indices: Sequence[int]) -> None:
        raise RuntimeError("Items are never taken from a host: they belong to it.")

    def remove_node(self, node: Any) -> str | None:
        """Forget a worker that ended; the id of the item it was running, if any."""
        sent = self._sent.pop(node)
        if not sent:
            return None
        crashed, *rest = sent
        host = self.host_of(node)
        self._queues[host].extendleft(reversed(rest))
        return self._collected[host][crashed]

    def _feed(self, node: Any) -> None:
        if node.shutting_down:
            return
        queue, sent = self._queues[self.host_of(node)], self._sent[node]
        batch = [queue.popleft() for _ in range(min(len(queue), IN_FLIGHT - len(sent)))]
        if batch:
            sent.extend(batch)
            node.send_runtest_some(batch)
        if not queue:
            node.shutdown()
