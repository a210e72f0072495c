"""What an emulated command writes: everything, in order, in few packets, and no more once the client is gone."""

from __future__ import annotations

import threading

import pytest

from harness.emulated.outbox import Outbox


class Channel:
    """Records packets; the first one waits until it may go."""

    def __init__(self) -> None:
        self.packets: list[tuple[str, bytes]] = []
        self.begun, self.may_go = threading.Event(), threading.Event()

    def send(self, data: bytes) -> None:
        self.begun.set()
        assert self.may_go.wait(10)
        self.packets.append(("out", data))

    def send_errors(self, data: bytes) -> None:
        self.packets.append(("err", data))


def test_what_came_together_goes_as_one_packet_and_streams_stay_in_order() -> None:
    channel = Channel()
    outbox = Outbox(channel.send, channel.send_errors)
    outbox.stdout.write(b"first")
    assert channel.begun.wait(10)
    for _ in range(3):
        outbox.stderr.write(b"e")
    outbox.stdout.write(b"o")
    outbox.stderr.write(b"f")
    channel.may_go.set()
    outbox.close()
    assert channel.packets == [("out", b"first"), ("err", b"eee"), ("out", b"o"), ("err", b"f")]


def test_writing_fails_once_the_client_is_gone() -> None:
    def gone(data: bytes) -> None:
        raise ConnectionResetError

    outbox = Outbox(gone, gone)
    outbox.stdout.write(b"x")
    with pytest.raises(ConnectionResetError):
        outbox.close()
    with pytest.raises(ConnectionResetError):
        outbox.stdout.write(b"y")


def test_nothing_written_is_nothing_sent() -> None:
    channel = Channel()
    Outbox(channel.send, channel.send_errors).close()
    assert channel.packets == []
