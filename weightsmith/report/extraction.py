"""Take what a fine-tune changed as a low-rank adapter, tensor by tensor.

Ranks may depend on the data, and a header comes before it: the factors wait in a file without a
name beside the target until all ranks are known.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from weightsmith.checkpoint.layout import single_file
from weightsmith.checkpoint.remote import read_all_ahead
from weightsmith.checkpoint.sink import FileSink
from weightsmith.checkpoint.source import Source
from weightsmith.errors import Mismatch, WeightsmithError
from weightsmith.header import Header, TensorSpec
from weightsmith.kernels import elementwise
from weightsmith.report.adapter import CONFIG, README, WEIGHTS, adapter_config, card, keys, unfit
from weightsmith.report.blocks import Reader
from weightsmith.report.extracted import Extracted, Extraction
from weightsmith.report.lowrank import RankRule, factorise
from weightsmith.report.pairs import Pair, Pairing
from weightsmith.statistics import PairSums

_COPY = 1 << 20


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        rule: how many directions.
        wanted: whether a tensor was selected.
        heads: whether output heads are wanted too.
        dtype: of the adapter, the format's name.
        base_name: the base model's name for the configuration, or empty.
        metadata: of the adapter file.
    """

    rule: RankRule
    wanted: Callable[[str], bool]
    heads: bool
    dtype: str
    base_name: str
    metadata: Mapping[str, str]


def extract(
    base: Source,
    tuned: Source,
    pairing: Pairing,
    request: Request,
    target: Path,
    *,
    force: bool = False,
    tick: Callable[[int], None] = lambda _: None,
) -> Extraction:
    """Write TUNED - BASE as an adapter directory, which appears whole or not at all.

    Args:
        base, tuned: the checkpoints.
        pairing: all tensors of both, selected or not.
        request: what is asked for.
        target: the directory.
        force: whether an existing adapter may be replaced.
        tick: told the bytes read for each tensor.

    Raises:
        Mismatch: nothing differs where the adapter could hold it.
        UsageError: the target exists.
        WeightsmithError: an element is NaN or infinite, or too large for the dtype.
    """
    read_all_ahead(base, (pair.a for pair in pairing.pairs))
    read_all_ahead(tuned, (pair.b for pair in pairing.pairs))
    done = Extraction(missed={name: (reason, None) for name, reason in pairing.apart.items()})

    def furnish(tree: Path) -> None:
        ranks = {each.name: each.rank for each in done.extracted}
        others = {pair.name for pair in pairing.pairs} | pairing.apart.keys()
        config = adapter_config(ranks, others - ranks.keys(), request.base_name)
        text = json.dumps(config, indent=2, ensure_ascii=False)
        (tree / CONFIG).write_text(text + "\n", encoding="utf-8")
        (tree / README).write_text(card(ranks, done.energy), encoding="utf-8")

    sink = FileSink(target, directory=True, force=force, furnish=furnish)
    try:
        with tempfile.TemporaryFile(dir=sink.workspace.path) as spool:
            specs = list(_walk(Reader(base), Reader(tuned), pairing, request, done, spool, tick))
            for source in (base, tuned):
                source.finish()
            if not specs:
                raise Mismatch(
                    "no linear layer differs, so there is nothing to extract", file=tuned.label
                )
            spool.seek(0)
            sink.open(single_file(Header(tuple(specs), request.metadata), WEIGHTS))
            for name, start, data in _chunks(spool, specs):
                sink.write(name, start, data)
        sink.publish()
    except BaseException:
        sink.discard()
        raise
    return done


def _walk(
    left: Reader,
    right: Reader,
    pairing: Pairing,
    request: Request,
    done: Extraction,
    spool: IO[bytes],
    tick: Callable[[int], None],
) -> Iterator[TensorSpec]:
    for pair in pairing.pairs:
        if not request.wanted(pair.name):
            _measure(left, right, pair, "not selected", done)
        elif reason := unfit(pair.a, heads=request.heads):
            _measure(left, right, pair, reason, done)
        else:
            yield from _factor(left, right, pair, request, done, spool)
        tick(pair.a.nbytes + pair.b.nbytes)


def _measure(left: Reader, right: Reader, pair: Pair, reason: str, done: Extraction) -> None:
    """Say how much of the change the adapter cannot hold."""
    blocks = zip(left.blocks(pair.a), right.blocks(pair.b), strict=True)
    sums = sum((PairSums.of(x, y) for x, y in blocks), PairSums())
    if sums.unchanged == sums.elements:
        done.unchanged.append(pair.name)
    else:
        done.missed[pair.name] = reason, sqrt(sums.square_delta) if sums.finite else None


def _factor(
    left: Reader, right: Reader, pair: Pair, request: Request, done: Extraction, spool: IO[bytes]
) -> Iterator[TensorSpec]:
    delta, base = right.matrix(pair.b), left.matrix(pair.a)
    with np.errstate(over="ignore", invalid="ignore"):
        np.subtract(delta, base, out=delta)
    del base
    if not np.isfinite(delta).all():
        raise WeightsmithError(
            "TUNED - BASE has NaN or infinite elements",
            tensor=pair.name,
            remedy="--exclude leaves the tensor out",
        )
    matrix = torch.from_numpy(delta)
    factors = factorise(matrix, request.rule)
    if factors.rank == 0:
        done.unchanged.append(pair.name)
        return
    square = float((matrix.double() ** 2).sum())
    done.extracted.append(Extracted(pair.name, factors.rank, factors.energy, factors.erank, square))
    for key, factor in zip(keys(pair.name), (factors.a, factors.b), strict=True):
        spec = TensorSpec(key, request.dtype, tuple(factor.shape))
        spool.write(_rounded(factor, spec, pair.name))
        yield spec


def _rounded(factor: Tensor, spec: TensorSpec, name: str) -> bytearray:
    out = bytearray(spec.nbytes)
    data = factor.numpy().reshape(-1).view(np.uint8).data
    if overflows := elementwise.cast(out, spec.dtype, data, "F32"):
        raise WeightsmithError(
            f"{overflows} elements of the factors are too large for {spec.dtype}",
            tensor=name,
            remedy="--dtype float32 or bfloat16",
        )
    return out


def _chunks(spool: IO[bytes], specs: list[TensorSpec]) -> Iterator[tuple[str, int, memoryview]]:
    for spec in specs:
        for start in range(0, spec.nbytes, _COPY):
            yield spec.name, start, memoryview(spool.read(min(_COPY, spec.nbytes - start)))
