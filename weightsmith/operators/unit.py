"""What an operator's function gets: the arrays of one work unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    Arrays = Mapping[str, torch.Tensor]
    Remember = Callable[[str, Callable[[], Arrays]], Arrays]
Report = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True, slots=True)
class Block:
    """A run of elements of one tensor.

    Attributes:
        dtype: the format's name of the dtype.
        data: the bytes; not necessarily aligned to the element size.
        shape: of the run: (n,) for element operators, (rows, columns) for row operators, the
            tensor's own shape for tensor operators.
    """

    dtype: str
    data: memoryview
    shape: tuple[int, ...]

    def float32(self) -> NDArray[np.float32]:
        """The elements as a new float32 array, widened exactly."""
        import numpy as np

        from weightsmith.kernels import elementwise

        array = np.empty(self.shape, np.float32)
        elementwise.cast(array.reshape(-1).view(np.uint8).data, "F32", self.data, self.dtype)
        return array

    def store(self, array: NDArray[np.float32]) -> int:
        """Round float32 elements into the block, to nearest even; returns how many overflowed."""
        import numpy as np

        from weightsmith.kernels import elementwise

        flat = np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint8).data
        return elementwise.cast(self.data, self.dtype, flat, "F32")


def _report_to_nobody(_: Mapping[str, float]) -> None:
    pass


def _compute_anew(_: str, compute: Callable[[], Arrays]) -> Arrays:
    return compute()


@dataclass(frozen=True, slots=True)
class Unit:
    """One work unit: read, changed and written at once.

    Attributes:
        name: the output tensor.
        start: index of the unit's first element within the output tensor.
        out: where the result goes.
        inputs: the same elements or rows of each input, in the order of the segment's slots.
        parameters: what `plan` left for this tensor.
        device: where arithmetic on whole tensors may run, as torch names it.
        remember: `remember(kind, compute)` gives what `compute` returns for these inputs, from the
            cache on disk if there is one.
        report: takes figures to be added up over the units of the tensor, for the end report.
    """

    name: str
    start: int
    out: Block
    inputs: tuple[Block, ...]
    parameters: Any
    device: str = "cpu"
    remember: Remember = _compute_anew
    report: Report = _report_to_nobody
