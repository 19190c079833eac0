"""Memory that tensors which cannot be cut share: what does not fit waits."""

import threading


class Room:
    """So many bytes; what is larger than all of them gets in when nothing else is there."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._stopped = False
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Wait until there is room; who takes nothing never waits."""
        if not size:
            return
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped or not self._taken or self._taken + size <= self._size
            )
            self._taken += size

    def give(self, size: int) -> None:
        """Give back what was taken."""
        with self._changed:
            self._taken -= size
            self._changed.notify_all()

    def stop(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
