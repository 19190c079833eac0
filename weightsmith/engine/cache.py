"""What is dear to compute and may be wanted again, kept on disk: one file for each tensor.

The name of a file is a hash of the bytes it was computed from, so it can be neither stale nor of
another model; nothing is kept in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from weightsmith.errors import UsageError

if TYPE_CHECKING:
    from weightsmith.operators.unit import Arrays, Block


class Cache:
    """A directory of safetensors files.

    Args:
        directory: created if it is not there.

    Raises:
        UsageError: it cannot be written to.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--cache: {error.strerror}", file=directory) from None
        if not os.access(directory, os.W_OK):
            raise UsageError("--cache: the directory cannot be written to", file=directory)

    def remember(self, kind: str, inputs: Sequence[Block], compute: Callable[[], Arrays]) -> Arrays:
        """What `compute` returns, from the file of an earlier run if there is one.

        Args:
            kind: what is computed, with a version of the method.
            inputs: everything that the result depends on.
            compute: gives named tensors.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file, save_file

        path = self._directory / f"{kind}-{_identity(inputs)}.safetensors"
        if path.exists():
            try:
                return load_file(path)
            except SafetensorError:
                path.unlink(missing_ok=True)  # broken by a crash: as good as absent
        result = compute()
        # Threads, processes and machines may do the same at once, as where a head is tied.
        beside = path.with_suffix(f".{uuid4().hex}.partial")
        save_file({name: array.contiguous().cpu() for name, array in result.items()}, beside)
        os.replace(beside, path)
        return result


def _identity(inputs: Sequence[Block]) -> str:
    digest = blake2b(digest_size=16)
    for block in inputs:
        digest.update(f"{block.dtype}{block.shape}".encode())
        digest.update(block.data)
    return digest.hexdigest()
