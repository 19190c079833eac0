"""Second moments of what each linear layer of a model gets: H = sum x x^T / n."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from weightsmith.checkpoint.fingerprint import fingerprint
from weightsmith.checkpoint.hessians import FILE, HESSIANS, HessianRecord
from weightsmith.checkpoint.layout import single_file
from weightsmith.checkpoint.sink import FileSink
from weightsmith.checkpoint.source import Source
from weightsmith.checkpoint.workspace import write_errors
from weightsmith.errors import WeightsmithError
from weightsmith.header import Header, TensorSpec
from weightsmith.inference.documents import sample
from weightsmith.inference.layers import Layers
from weightsmith.inference.model import load_tokenizer
from weightsmith.operators.provenance import stream_fingerprint

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Request:
    """What to run a model on.

    Attributes:
        tokens: at most this many, in whole windows.
        window: tokens in a window.
        seed: of the choice of windows.
        device: where a layer runs, as torch names it.
    """

    tokens: int = 16384
    window: int = 1024
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Calibration:
    """What was written.

    Attributes:
        record: that of the file.
        windows: how many were run, of how many that the text has.
        matrices: how many the file holds.
        nbytes: their size.
    """

    record: HessianRecord
    windows: tuple[int, int]
    matrices: int
    nbytes: int


def calibrate(
    source: Source,
    directory: Path,
    text: Path,
    target: Path,
    request: Request = Request(),
    *,
    force: bool = False,
    begin: Callable[[int], None] = lambda _: None,
    tick: Callable[[int], None] = lambda _: None,
) -> Calibration:
    """Run a model once, layer by layer, and write a directory, which appears whole or not at all.

    One layer and its matrices are in memory; what goes from layer to layer waits in a file without
    a name beside the target.

    Args:
        source: the model's weights, in files.
        directory: where its config.json and tokenizer are.
        text: see `documents.sample`.
        target: the directory to make.
        request: how much of the text, and where.
        force: whether existing statistics may be replaced.
        begin: told how many bytes of hidden states will be worked on.
        tick: told how many were.

    Raises:
        UsageError: the model or the request cannot be worked with, or the target exists.
        Mismatch: the checkpoint's tensors are not the model's.
        WeightsmithError: the text is too short, or something on the way is not finite.
    """
    import numpy as np
    import torch

    layers = Layers(directory, source)
    drawn = sample(
        load_tokenizer(directory),
        text,
        tokens=request.tokens,
        window=request.window,
        seed=request.seed,
    )
    ids = torch.tensor(drawn.windows)
    width = layers.embed(ids[0]).shape[-1]
    groups = [_groups(layers, index, request.window, width) for index in range(len(layers))]
    weights = {name: group[0] for layer in groups for group in layer for name in group}
    record = HessianRecord(
        f"sampled:{fingerprint(source)}",
        stream_fingerprint(source.header),
        drawn.text,
        ids.numel(),
        request.window,
        request.seed,
        weights,
    )
    specs = [
        TensorSpec(group[0], "F32", (size := layers.linears(index)[group[0]].in_features, size))
        for index, layer in enumerate(groups)
        for group in layer
    ]
    header = Header(tuple(specs), {"format": "pt", HESSIANS: record.encode()})
    sink = FileSink(target, directory=True, force=force)
    try:
        sink.open(single_file(header, FILE))
        with tempfile.TemporaryFile(dir=sink.workspace.path) as file:
            states = torch.from_numpy(_room(file, (len(ids), request.window, width)))
            begin(states.nbytes * len(layers))
            for at, window in enumerate(ids):
                states[at] = layers.embed(window)[0]
            layers.forget_embedding()
            for index, layer in enumerate(groups):
                with layers.resident(index, request.device):
                    found = _measure(layers, index, [g[0] for g in layer], states, request, tick)
                for name, total in found.items():
                    matrix = (total / ids.numel()).cpu().numpy()
                    if not np.isfinite(matrix).all():
                        raise WeightsmithError(
                            "the inputs of this layer are not finite",
                            file=source.label,
                            tensor=name,
                        )
                    sink.write(name, 0, matrix.reshape(-1).view(np.uint8).data)
        source.finish()
        sink.publish()
    except BaseException:
        sink.discard()
        raise
    return Calibration(record, (len(ids), drawn.available), len(specs), header.nbytes)


def _groups(layers: Layers, index: int, window: int, width: int) -> list[list[str]]:
    """Weights of a layer that get the very same input, such as query, key and value."""
    import torch

    # Inputs are kept so that none gets the identity of one that is gone.
    seen: dict[int, tuple[Tensor, list[str]]] = {}

    def record(name: str, _: Any, given: tuple[Tensor, ...]) -> None:
        seen.setdefault(id(given[0]), (given[0], []))[1].append(name)

    hooks = [
        module.register_forward_pre_hook(partial(record, name))
        for name, module in layers.linears(index).items()
    ]
    try:
        layers.run(index, torch.empty(1, window, width, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return [names for _, names in seen.values()]


def _measure(
    layers: Layers,
    index: int,
    names: list[str],
    states: Tensor,
    request: Request,
    tick: Callable[[int], None],
) -> dict[str, Tensor]:
    """Run a layer over all windows in place; sums of x x^T by name, float32 [in, in]."""
    import torch

    linears = layers.linears(index)
    totals: dict[str, Tensor] = {}

    def add(name: str, _: Any, given: tuple[Tensor, ...]) -> None:
        rows = given[0].reshape(-1, given[0].shape[-1])
        total = totals.get(name)
        totals[name] = rows.T @ rows if total is None else total.addmm_(rows.T, rows)

    hooks = [linears[name].register_forward_pre_hook(partial(add, name)) for name in names]
    try:
        with torch.inference_mode():
            for at in range(len(states)):
                given = states[at : at + 1].to(request.device)
                states[at : at + 1] = layers.run(index, given).cpu()
                tick(given.nbytes)
    finally:
        for hook in hooks:
            hook.remove()
    return totals


def _room(file: IO[bytes], shape: tuple[int, ...]) -> Any:
    """A float32 array in a file: the system keeps in memory what it has room for."""
    import numpy as np

    with write_errors("hidden states"):
        # A page that finds no room on the disk later would kill the process.
        os.posix_fallocate(file.fileno(), 0, 4 * prod(shape))
    return np.memmap(file, np.float32, "w+", shape=shape)
