"""Read a tensor of a checkpoint as float32, a block at a time."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np

from weightsmith.checkpoint.shard import PAGE
from weightsmith.checkpoint.source import Source
from weightsmith.dtypes import DTYPES
from weightsmith.header import TensorSpec
from weightsmith.kernels import elementwise
from weightsmith.statistics import BLOCK, Float


class Reader:
    """The tensors of one source, widened to float32 exactly; of a stream, in its order."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._area = memoryview(mmap.mmap(-1, BLOCK * 4 + 2 * PAGE))

    def blocks(self, spec: TensorSpec) -> Iterator[Float]:
        """All elements in order: float32 [n] with n = BLOCK but in the last."""
        for start in range(0, spec.numel, BLOCK):
            block = np.empty(min(BLOCK, spec.numel - start), np.float32)
            self._fill(spec, start, block)
            yield block

    def matrix(self, spec: TensorSpec) -> Float:
        """The whole tensor as float32 [out, in], the dimensions after the first joined."""
        whole = np.empty(spec.numel, np.float32)
        for start in range(0, spec.numel, BLOCK):
            self._fill(spec, start, whole[start : start + BLOCK])
        return whole.reshape(spec.shape[0], -1)

    def _fill(self, spec: TensorSpec, start: int, block: Float) -> None:
        width = DTYPES[spec.dtype].bits // 8
        data = self._source.read(spec.name, start * width, block.size * width, self._area)
        elementwise.cast(block.view(np.uint8).data, "F32", data, spec.dtype)


def cut(matrix: Float) -> Iterator[Float]:
    """A whole tensor in the blocks in which it would have been read."""
    flat = matrix.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        yield flat[start : start + BLOCK]
