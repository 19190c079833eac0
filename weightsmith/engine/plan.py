"""The plan of a run: every output tensor, its inputs and the header, from headers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import weightsmith
from weightsmith.checkpoint.layout import Layout
from weightsmith.checkpoint.source import Source
from weightsmith.dtypes import DTYPES
from weightsmith.engine.spool import waiting
from weightsmith.errors import Mismatch, UsageError
from weightsmith.header import Header
from weightsmith.operators.heads import untied
from weightsmith.operators.operator import Draft, InputView, Operator, Request, TensorPlan
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
        spooled: by source, which tensors of a stream have to wait, and the output tensor after
            which each is not needed any more.
    """

    operator: Operator
    sources: tuple[Source, ...]
    draft: Draft
    header: Header
    config_patch: Mapping[str, Any]
    provenance: Mapping[str, Any] | None
    spooled: Mapping[int, Mapping[str, str]] = field(default_factory=dict)

    @property
    def primary(self) -> Source:
        """The input that gives sharding and sidecar files."""
        return self.sources[self.operator.primary]

    @property
    def tensors(self) -> tuple[TensorPlan, ...]:
        """The output's tensors in order."""
        return self.draft.tensors

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
        inputs = [source.identity() for source in self.sources]
        digest = blake2b(canonical([self.operator.name, inputs]).encode(), digest_size=16)
        for name, header in layout.files:
            digest.update(name.encode() + header.encode())
        for tensor in self.tensors:
            digest.update(repr(tensor).encode())
        return digest.hexdigest()


def make_plan(
    operator: Operator,
    sources: tuple[Source, ...],
    views: Sequence[InputView],
    request: Request,
) -> Plan:
    """Ask the operator for its draft and complete it.

    Raises:
        UsageError, Mismatch: whatever is wrong with the request, before anything is written.
    """
    draft = operator.plan(views, request)
    if not draft.tensors:
        raise UsageError("no tensor is left for the output")
    if "spool" in operator.uses:
        spooled = {
            index: waiting(index, source.header, draft.tensors)
            for index, source in enumerate(sources)
            if source.sequential
        }
    else:
        spooled = {}
        _check_streams(sources, draft)
    patch = _config_patch(operator, views, draft, request)
    primary = sources[operator.primary].header
    provenance = None if draft.transparent else _provenance(operator, views, draft, request)
    metadata = {key: value for key, value in primary.metadata.items() if key not in TRANSIENT}
    if provenance is not None:
        metadata.setdefault("format", "pt")
        metadata |= {PROVENANCE: canonical(provenance)} | dict(draft.metadata)
    header = Header(tuple(tensor.spec for tensor in draft.tensors), metadata)
    return Plan(operator, sources, draft, header, patch, provenance, spooled)


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


def _config_patch(
    operator: Operator, views: Sequence[InputView], draft: Draft, request: Request
) -> dict[str, Any]:
    primary = views[operator.primary]
    earlier = trusted_patch(primary.header.metadata)
    asked = {"dtype": DTYPES[request.dtype].torch_name} if request.dtype else {}
    return earlier | asked | untied(primary, draft) | dict(draft.config_patch)


def _provenance(
    operator: Operator, views: Sequence[InputView], draft: Draft, request: Request
) -> dict[str, Any]:
    nodes: dict[str, Any] = {}
    for view in views:
        node = draft.lineage.get(view.role, view.lineage)
        many = next(i for i in operator.inputs if i.role == view.role).many
        nodes[view.role] = [*nodes.get(view.role, []), node] if many else node
    asked = {"dtype": request.dtype} if request.dtype else {}
    return {
        "operator": operator.name,
        "version": weightsmith.__version__,
        "parameters": operator.record() | request.selection.record() | asked,
        "inputs": nodes,
    }
