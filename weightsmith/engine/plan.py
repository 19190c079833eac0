"""The plan of a run: every output tensor, its inputs and the header, from headers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any

import weightsmith
from weightsmith.checkpoint.layout import Layout
from weightsmith.checkpoint.source import Source
from weightsmith.dtypes import DTYPES
from weightsmith.engine.link import Link, behind, late, needed_upstream
from weightsmith.engine.spool import waiting
from weightsmith.engine.units import Upstream
from weightsmith.errors import Mismatch, UsageError
from weightsmith.header import Header
from weightsmith.operators.float8 import refuse_casts
from weightsmith.operators.heads import untied
from weightsmith.operators.operator import (
    Draft,
    InputView,
    Operator,
    Request,
    Segment,
    TensorPlan,
)
from weightsmith.operators.provenance import (
    PROVENANCE,
    TRANSIENT,
    canonical,
    trusted_patch,
)


@dataclass(frozen=True)
class Plan:
    """All that is decided before any data is read.

    Attributes:
        operator: what is done.
        sources: the open inputs.
        draft: the operator's own plan.
        header: of the output, as if it were one file.
        config_patch: JSON merge patch for config.json, those of a pipe's earlier stages included.
        provenance: the record that the output carries, or None if it passes on its input's.
        spooled: by source, which tensors of a stream or link have to wait, and the output tensor
            after which each is not needed any more.
        link: what messages call it, if it is one of a chain.
    """

    operator: Operator
    sources: tuple[Source, ...]
    draft: Draft
    header: Header
    config_patch: Mapping[str, Any]
    provenance: Mapping[str, Any] | None
    spooled: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    link: str | None = None

    @property
    def primary(self) -> Source:
        """The input that gives sharding and sidecar files."""
        return self.sources[_primary(self.operator, self.draft)]

    @property
    def tensors(self) -> tuple[TensorPlan, ...]:
        """The output's tensors in order."""
        return self.draft.tensors

    def upstream(self, segment: Segment) -> Upstream:
        """What units of a segment have to mind where links make their inputs."""
        return needed_upstream(self, segment)

    def keep(self) -> None:
        """Tell the sources, before the first read, what has to wait."""
        for source, waiting_there in self.spooled.items():
            self.sources[source].keep(waiting_there)

    def release(self, tensor: str) -> None:
        """Tell the sources what nobody needs any more, now that an output tensor is read."""
        for source, name in self._last_read_by.get(tensor, ()):
            self.sources[source].drop(name)

    @cached_property
    def _last_read_by(self) -> dict[str, list[tuple[int, str]]]:
        found: dict[str, list[tuple[int, str]]] = {}
        for source, waiting_there in self.spooled.items():
            for name, last in waiting_there.items():
                found.setdefault(last, []).append((source, name))
        return found

    @property
    def shard_of(self) -> dict[str, str]:
        """The primary's file for each tensor it has, and for each that is made of one."""
        known = self.primary.shard_of
        home = dict(known)
        for tensor in self.tensors:
            slots = [slot for segment in tensor.segments[:1] for slot in segment.slots]
            files = [known[s.spec.name] for s in slots if s.spec.name in known]
            if tensor.spec.name not in known and files:
                home[tensor.spec.name] = files[0]
        return home

    def fingerprint(self, layout: Layout) -> str:
        """What must be equal for an interrupted run to be continued."""
        digest = self._digest()
        for name, header in layout.files:
            digest.update(name.encode() + header.encode())
        return digest.hexdigest()

    def identity(self) -> str:
        """What changes when the output would have other data."""
        return self._digest().hexdigest()

    def _digest(self) -> blake2b:
        inputs = [source.identity() for source in self.sources]
        digest = blake2b(canonical([self.operator.name, inputs]).encode(), digest_size=16)
        for tensor in self.tensors:
            digest.update(repr(tensor).encode())
        return digest


def make_plan(
    operator: Operator,
    sources: tuple[Source, ...],
    views: Sequence[InputView],
    request: Request,
    link: str | None = None,
) -> Plan:
    """Ask the operator for its draft and complete it.

    Raises:
        UsageError, Mismatch: whatever is wrong with the request, before anything is written.
    """
    draft = operator.plan(views, request)
    refuse_casts(views, draft.tensors)
    if not draft.tensors:
        raise UsageError("no tensor is left for the output")
    spooled = _spooled(operator, sources, draft.tensors)
    if "spool" not in operator.uses:
        _check_streams(sources, draft)
    primary = views[_primary(operator, draft)]
    patch = _config_patch(primary, draft, request)
    provenance = None if draft.transparent else _provenance(operator, views, draft, request)
    metadata = {
        key: value for key, value in primary.header.metadata.items() if key not in TRANSIENT
    }
    if provenance is not None:
        metadata.setdefault("format", "pt")
        metadata |= {PROVENANCE: canonical(provenance)} | dict(draft.metadata)
    header = Header(tuple(tensor.spec for tensor in draft.tensors), metadata)
    return Plan(operator, sources, draft, header, patch, provenance, spooled, link)


def _spooled(
    operator: Operator, sources: Sequence[Source], tensors: Sequence[TensorPlan]
) -> dict[int, dict[str, str]]:
    found: dict[int, dict[str, str]] = {}
    for index, source in enumerate(sources):
        if source.sequential and "spool" in operator.uses:
            found[index] = waiting(index, source.header, tensors)
        if isinstance(behind(source), Link):
            kept = late(index, source, tensors, operator.granularity)
            found[index] = found.get(index, {}) | kept
    return found


def _check_streams(sources: Sequence[Source], draft: Draft) -> None:
    """A stream is read once, from front to back, by operators that ask for no spool."""
    position = dict.fromkeys(range(len(sources)), -1)
    for tensor in draft.tensors:
        for segment in tensor.segments:
            for slot in segment.slots:
                source = sources[slot.source]
                if not source.sequential:
                    continue
                start = source.header.offsets[slot.spec.name]
                end = start + slot.spec.nbytes * segment.stop // max(1, tensor.spec.numel)
                if start < position[slot.source] and segment.start == 0:
                    raise Mismatch(
                        "the streams do not have their tensors in the same order",
                        file=source.label,
                        tensor=tensor.spec.name,
                        remedy="give one of the inputs as a file",
                    )
                position[slot.source] = end


def _primary(operator: Operator, draft: Draft) -> int:
    return operator.primary if draft.primary is None else draft.primary


def _config_patch(primary: InputView, draft: Draft, request: Request) -> dict[str, Any]:
    earlier = trusted_patch(primary.header.metadata)
    asked = {"dtype": DTYPES[request.dtype].torch_name} if request.dtype else {}
    return earlier | asked | untied(primary, draft) | dict(draft.config_patch)


def _provenance(
    operator: Operator, views: Sequence[InputView], draft: Draft, request: Request
) -> dict[str, Any]:
    nodes: dict[str, Any] = {}
    for view in views:
        node = draft.lineage.get(view.role, view.lineage)
        if view.many and not isinstance(node, list):
            node = [*nodes.get(view.role, []), node]
        nodes[view.role] = node
    asked = {"dtype": request.dtype} if request.dtype else {}
    return {
        "operator": operator.name,
        "version": weightsmith.__version__,
        "parameters": operator.record() | request.selection.record() | asked,
        "inputs": nodes,
    }
