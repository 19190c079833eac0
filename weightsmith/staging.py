"""Bytes on their way to a device, through two page-locked buffers: one is filled while one is sent.

A card copies by itself only from memory that cannot be moved. Pages of a file cannot be locked, so
they go through buffers that can; reading the file and sending what was read then overlap. On the
CPU the same code copies.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from weightsmith.dtypes import DTYPES
from weightsmith.errors import UsageError

_STAGE_BYTES = 8 << 20
_mine = threading.local()  # every thread sends on a stream of its own


class _Stage:
    """One buffer, and whether what it held has arrived."""

    def __init__(self, device: torch.device) -> None:
        on_card = device.type == "cuda"
        self.buffer = torch.empty(_STAGE_BYTES, dtype=torch.uint8, pin_memory=on_card)
        self._arrived: Any = torch.cuda.Event() if on_card else None  # type: ignore[no-untyped-call]

    def send(self, data: memoryview, target: torch.Tensor) -> None:
        """Fill the buffer, once it is free, and send it on its way."""
        if self._arrived is not None:
            self._arrived.synchronize()
        part = self.buffer[: len(data)]
        part.numpy()[:] = np.frombuffer(data, np.uint8)
        target.copy_(part, non_blocking=self._arrived is not None)
        if self._arrived is not None:
            self._arrived.record()


def upload(data: memoryview, dtype: str, shape: tuple[int, ...], device: torch.device) -> Any:
    """A copy of a tensor's bytes on a device.

    Args:
        data: the bytes, not necessarily aligned.
        dtype: of the elements, the format's name.
        shape: of the result.
        device: where it goes; work that is queued there later finds it complete.
    """
    found = torch.empty(len(data), dtype=torch.uint8, device=device)
    for number, start in enumerate(range(0, len(data), _STAGE_BYTES)):
        part = data[start : start + _STAGE_BYTES]
        _stages(device)[number % 2].send(part, found[start : start + len(part)])
    return found.view(getattr(torch, DTYPES[dtype].torch_name)).reshape(shape)


def to_device(array: NDArray[np.float32], device: torch.device) -> torch.Tensor:
    """A float32 array on a device; on the CPU it is the array itself."""
    if device.type == "cpu":
        return torch.from_numpy(array)
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    found: torch.Tensor = upload(flat, "F32", array.shape, device)
    return found


def require(device: str) -> None:
    """Raise UsageError unless torch can compute on a device of this name."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise UsageError(f"--device {device}: {why}", remedy="--device cpu") from None


@contextmanager
def own_stream(device: str) -> Iterator[None]:
    """Queue a thread's work on a stream of its own: one thread then sends while one computes."""
    if not device.startswith("cuda"):
        yield
        return
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.device(device), torch.cuda.stream(stream):
        yield


def _stages(device: torch.device) -> tuple[_Stage, _Stage]:
    stages: dict[torch.device, tuple[_Stage, _Stage]] = _mine.__dict__.setdefault("stages", {})
    if device not in stages:
        stages[device] = _Stage(device), _Stage(device)
    return stages[device]
