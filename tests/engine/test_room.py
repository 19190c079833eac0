"""Who waits for memory, and who does not."""

import threading
from collections.abc import Callable

import pytest

from weightsmith.engine.room import Room


def started(room: Room, size: int) -> tuple[threading.Thread, Callable[[], bool]]:
    """A thread that takes so much, and whether it has got it."""
    thread = threading.Thread(target=room.take, args=(size,), daemon=True)
    thread.start()
    thread.join(0.05)
    return thread, lambda: not thread.is_alive()


def test_what_fits_does_not_wait() -> None:
    room = Room(10)
    for size in (4, 6, 0):
        assert started(room, size)[1]()


@pytest.mark.parametrize(("first", "second"), [(8, 3), (50, 1), (1, 50)])
def test_what_does_not_fit_waits_until_there_is_room(first: int, second: int) -> None:
    room = Room(10)
    room.take(first)
    thread, has_it = started(room, second)
    assert not has_it()
    room.give(first)
    thread.join(5)
    assert has_it()


def test_nothing_waits_beside_what_is_too_large() -> None:
    room = Room(10)
    room.take(50)
    assert started(room, 0)[1]()


def test_a_stop_wakes_who_waits() -> None:
    room = Room(10)
    room.take(50)
    thread, has_it = started(room, 1)
    assert not has_it()
    room.stop()
    thread.join(5)
    assert has_it()
