"""ptqtp: weights become sums of scaled trit planes (PTQTP, arXiv 2509.16989)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import sqrt
from typing import Any, ClassVar

from weightsmith.checkpoint.hessians import HessianRecord
from weightsmith.dtypes import is_arithmetic
from weightsmith.errors import Mismatch, UsageError
from weightsmith.header import TensorSpec
from weightsmith.operators.configuration import config_of, quantization_of
from weightsmith.operators.delta import refuse_delta
from weightsmith.operators.float8 import refuse_float8
from weightsmith.operators.inventory import (
    dense_linears,
    reason_to_keep,
    summary,
    without_statistics,
)
from weightsmith.operators.numbers import count, decimal
from weightsmith.operators.operator import (
    Draft,
    Function,
    Granularity,
    Input,
    InputView,
    Operator,
    Request,
    Slot,
    TensorPlan,
    option,
    whole,
)
from weightsmith.operators.provenance import QUANTIZATION
from weightsmith.operators.registry import register
from weightsmith.operators.roles import Role, require_input_last, role_of
from weightsmith.selection import Selection, Values
from weightsmith.tritplanes import int4
from weightsmith.tritplanes.encoding import (
    MOST_IN_GROUP,
    MOST_PLANES,
    Encoding,
    Int8Encoding,
    Quantization,
    Ratios,
    TritEncoding,
    packed_spec,
)

MODEL, STATS = range(2)
RATIOS: dict[str, Ratios] = {
    "free": (),
    "3:2": ((3, 2),),
    "auto": ((3, 2), (5, 2), (3, 1), (4, 3)),
}


@dataclass(frozen=True)
class Job:
    """How one output tensor is made.

    Attributes:
        encoding: how the weights are stored.
        content: what of it the tensor holds: "packed", "dense", "words", "units" or "shape".
        fit: "search" or "paper".
        starts: of the search; None for all.
        stats: how the Hessian among the inputs is used: "feedback" or "diag"; None without one.
        damping: added to the Hessian's diagonal, as a share of its mean.
    """

    encoding: Encoding
    content: str
    fit: str = "search"
    starts: int | None = None
    stats: str | None = None
    damping: float = 0.0


def _planes(text: str) -> int:
    if text not in map(str, range(1, MOST_PLANES + 1)):
        raise ValueError(f"not a number of planes from 1 to {MOST_PLANES}")
    return int(text)


def _bits(text: str) -> int:
    planes, times, each = text.partition("x")
    if not times or each not in ("1.58", "1.585"):
        raise ValueError("not KxB with K planes of B = 1.58 bits, such as 2x1.58")
    return _planes(planes)


def _group(text: str) -> int:
    size = count(text)
    if size > MOST_IN_GROUP:
        raise ValueError(f"more than {MOST_IN_GROUP}")
    return size


def _share(text: str) -> Decimal:
    share = decimal(text)
    if share < 0:
        raise ValueError("negative")
    return share


@register
@dataclass(frozen=True, kw_only=True)
class Ptqtp(Operator):
    """Quantise linear weights into sums of scaled trit planes.

    Every group of --group-size input channels of a row becomes a sum of K planes of -1, 0 and 1,
    each with a scale: without data, or with --stats of `weightsmith calibrate` so that the outputs
    of the layers change least. Linear weights of attention and MLP are quantised, everything else
    is kept, unless --select says otherwise.
    """

    name: ClassVar[str] = "ptqtp"
    inputs: ClassVar[tuple[Input, ...]] = (
        Input("model", "the checkpoint", stdin=True),
        Input("stats", "What `weightsmith calibrate` wrote for MODEL", flag="--stats"),
    )
    granularity: ClassVar[Granularity] = Granularity.ROW
    # int4 reads a weight for each part of it
    uses: ClassVar[frozenset[str]] = frozenset({"device", "spool"})
    examples: ClassVar[str] = """
    weightsmith ptqtp model/ --bits 2x1.58 -o packed/
    weightsmith rotate model/ --seed 0 -o rotated/
    weightsmith calibrate rotated/ novel.txt -o stats/
    weightsmith ptqtp rotated/ --stats stats/ --bits 2x1.58 -o packed/
    """

    bits: int | None = option(
        "--bits",
        "K planes of 1.58 bits, for all tensors",
        default=None,
        convert=_bits,
        metavar="Kx1.58",
    )
    planes: Values[int] = option(
        "--planes", "planes K", default="2", convert=_planes, per_tensor=True, metavar="K"
    )
    group_size: int = option(
        "--group-size",
        "input channels that share scales",
        default="128",
        convert=_group,
        metavar="N",
    )
    fit: str = option(
        "--fit",
        "search for the best scales, or the paper's algorithm as written",
        default="search",
        choices=("search", "paper"),
        metavar="search|paper",
    )
    starts: int | None = option(
        "--starts",
        "starts of the search in every group, instead of all there are",
        default=None,
        convert=count,
        metavar="N",
    )
    ratio: str = option(
        "--ratio",
        "tie the two scales of a group to each other; auto: the best of four ratios",
        default="free",
        choices=tuple(RATIOS),
        metavar="free|3:2|auto",
    )
    stats_use: str = option(
        "--stats-use",
        "error feedback by the whole matrices, or weights of errors by their diagonals",
        default="feedback",
        choices=("feedback", "diag"),
        metavar="feedback|diag",
    )
    damping: Decimal = option(
        "--damping",
        "added to the diagonal of --stats, as a share of its mean",
        default="0.01",
        convert=_share,
        metavar="SHARE",
    )
    format: str = option(
        "--format",
        "packed rows, dense weights in the input's dtype, or int4 for compressed-tensors",
        default="packed",
        choices=("packed", "dense", "int4"),
        metavar="packed|dense|int4",
    )
    embeddings: str = option(
        "--embeddings",
        "keep embeddings, or store them in 8 bits",
        default="keep",
        choices=("keep", "int8"),
        metavar="keep|int8",
    )
    head: str = option(
        "--head",
        "keep the head, or store it in 8 bits",
        default="keep",
        choices=("keep", "int8"),
        metavar="keep|int8",
    )

    def record(self) -> dict[str, Any]:
        """See Operator; --bits is another spelling of --planes."""
        found = {key: value for key, value in super().record().items() if value is not None}
        if found.pop("bits", None) is not None:
            found["planes"] = str(self.bits)
        return {key: str(v) if isinstance(v, Decimal) else v for key, v in found.items()}

    def plan(self, inputs: Sequence[InputView], request: Request) -> Draft:
        """See Operator."""
        model = inputs[MODEL]
        refuse_delta(model, "graft it on a base first")
        self._check()
        request.selection.check([spec.name for spec in model.header.tensors])
        refuse_float8(model.label, model.header, Selection())
        hessians = _hessians(inputs, force=request.force)
        earlier = quantization_of(model)
        if earlier and (self.format != "packed" or not self._continues(earlier)):
            raise Mismatch(
                "the checkpoint is quantised already, in another way",
                file=model.label,
                remedy="weightsmith unpack makes it dense",
            )
        encodings = self._encodings(model, request)
        jobs = {
            spec.name: tuple(self._jobs(spec, encodings[spec.name], hessians))
            for spec in model.header.tensors
            if spec.name in encodings
        }
        patch: dict[str, Any] = {}
        if self.format == "packed":
            known = dict(earlier.tensors) if earlier else {}
            whole_model = Quantization(self.group_size, RATIOS[self.ratio], known | dict(encodings))
            patch[QUANTIZATION] = whole_model.record()
        elif self.format == "int4":
            patch[QUANTIZATION] = int4.config(
                self.group_size, dense_linears(model.header, encodings)
            )
        tensors = tuple(
            plan
            for spec in model.header.tensors
            for plan in (
                jobs[spec.name]
                if spec.name in jobs
                else [whole(request.output(spec), (Slot(MODEL, spec),), None, reason_to_keep(spec))]
            )
        )
        return Draft(
            tensors,
            config_patch=patch,
            summary=summary(model.header, encodings, tensors),
            warnings=without_statistics(hessians, encodings),
        )

    def _check(self) -> None:
        """Options that do not go together, whatever the tensors."""
        if self.bits is not None and self.planes.record() != "2":
            raise UsageError("--bits and --planes are two answers to one question")
        if self.fit == "paper" and self.ratio != "free":
            raise UsageError("the paper's scales are free", remedy="--fit search with --ratio")
        if self.format == "int4":
            if self.ratio == "free":
                raise UsageError(
                    "free scales do not fit 4-bit integers",
                    remedy="--ratio 3:2 or --ratio auto, whose levels are integers",
                )
            if "int8" in (self.embeddings, self.head):
                raise UsageError("8-bit embeddings and heads belong to --format packed")

    def _continues(self, earlier: Quantization) -> bool:
        return earlier.group == self.group_size and earlier.ratios == RATIOS[self.ratio]

    def _encodings(self, model: InputView, request: Request) -> dict[str, Encoding]:
        """How every tensor that is quantised is stored."""
        chosen = [spec for spec in model.header.tensors if self._is_trits(spec, request)]
        names = [spec.name for spec in chosen]
        counts = dict.fromkeys(names, self.bits) if self.bits else self.planes.resolve(names)
        found: dict[str, Encoding] = {}
        config = config_of(model)
        for spec in chosen:
            require_input_last(spec, config, model.label)
            planes = counts[spec.name]
            assert planes is not None
            self._check_planes(spec, planes)
            dtype = request.output(spec).dtype
            found[spec.name] = TritEncoding(
                spec.shape, dtype, planes, self.group_size, RATIOS[self.ratio]
            )
        for spec in model.header.tensors:
            if spec.name not in found and self._is_int8(spec, model, request):
                found[spec.name] = Int8Encoding(spec.shape, request.output(spec).dtype)
        if not found:
            raise UsageError(
                "there is nothing to quantise",
                file=model.label,
                expected="linear weights of attention and MLP, or a --select of matrices",
            )
        return found

    def _is_trits(self, spec: TensorSpec, request: Request) -> bool:
        if not is_arithmetic(spec.dtype) or spec.name not in request.selection:
            return False
        if not request.selection.select:
            return role_of(spec) is Role.LINEAR and spec.numel > 0
        if len(spec.shape) < 2 or not spec.numel:
            raise UsageError(
                "only matrices can be quantised", tensor=spec.name, remedy="--exclude it"
            )
        return not self._wants_int8(role_of(spec))

    def _wants_int8(self, role: Role) -> bool:
        return (role is Role.EMBEDDING and self.embeddings == "int8") or (
            role is Role.HEAD and self.head == "int8"
        )

    def _is_int8(self, spec: TensorSpec, model: InputView, request: Request) -> bool:
        role = role_of(spec)
        if role is Role.EMBEDDING and self.head == "int8" and self.embeddings == "keep":
            heads = [s for s in model.header.tensors if role_of(s) is Role.HEAD]
            if not heads:
                raise UsageError(
                    "the head is tied to the embedding",
                    file=model.label,
                    remedy="--embeddings int8",
                )
        excluded = request.selection.exclude and spec.name not in request.selection
        fits = is_arithmetic(spec.dtype) and len(spec.shape) == 2 and spec.numel > 0
        return self._wants_int8(role) and fits and not excluded

    def _check_planes(self, spec: TensorSpec, planes: int) -> None:
        if planes != 2 and (self.ratio != "free" or self.fit == "paper"):
            which = f"--ratio {self.ratio}" if self.ratio != "free" else "--fit paper"
            raise UsageError(f"{which} needs two planes", tensor=spec.name, got=planes)
        columns = spec.shape[-1]
        if self.format != "int4":
            return
        if len(spec.shape) != 2 or columns % self.group_size or columns % int4.PER_WORD:
            raise UsageError(
                "--format int4 takes matrices whose rows are whole groups of whole words",
                tensor=spec.name,
                expected=f"a multiple of --group-size {self.group_size} and of {int4.PER_WORD}",
                got=list(spec.shape),
                remedy="another --group-size, such as 64",
            )

    def _jobs(
        self, spec: TensorSpec, encoding: Encoding, hessians: Mapping[str, TensorSpec]
    ) -> Iterator[TensorPlan]:
        """The output tensors that a quantised one becomes."""
        slots: tuple[Slot, ...] = (Slot(MODEL, spec),)
        hessian = hessians.get(spec.name) if isinstance(encoding, TritEncoding) else None
        stats = None
        if hessian is not None:
            if len(spec.shape) != 2 or hessian.shape != (spec.shape[1], spec.shape[1]):
                raise Mismatch(
                    "the statistics have another width than the weights",
                    tensor=spec.name,
                    expected=spec.shape[-1],
                    got=list(hessian.shape),
                )
            slots, stats = (*slots, Slot(STATS, hessian, whole=True)), self.stats_use
        # The paper's end of iteration looks at all rows, and error feedback needs the matrix once.
        cut = Granularity.TENSOR if stats or self.fit == "paper" else Granularity.ROW

        def make(out: TensorSpec, content: str, given: tuple[Slot, ...] = slots) -> TensorPlan:
            damping = float(self.damping) if stats else 0.0
            job = Job(encoding, content, self.fit, self.starts, stats, damping)
            return whole(out, given, job, granularity=cut)

        if self.format == "packed":
            yield make(packed_spec(spec.name, encoding), "packed")
        elif self.format == "dense" or isinstance(encoding, Int8Encoding):
            yield make(TensorSpec(spec.name, encoding.dtype, spec.shape), "dense")
        else:
            packed, scale, shape = int4.specs(spec.name, encoding)
            yield make(packed, "words")
            yield make(scale, "units")
            yield make(shape, "shape", ())

    def function(self) -> Function:
        """See Operator."""
        from weightsmith.operators.arithmetic.quantizing import quantize

        return quantize

    def summarise(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Relative error, iterations, share of zeros, and bits per weight with scales."""
        found = {}
        for key, error, norm in (
            ("relative error", "error", "norm"),
            ("relative output error", "output error", "output norm"),
        ):
            if sums.get(norm):
                found[key] = sqrt(sums[error] / sums[norm])
        if sums.get("groups"):
            found["iterations"] = sums["iterations"] / sums["groups"]
        if sums.get("trits"):
            found["zeros"] = sums["zeros"] / sums["trits"]
        if sums.get("weights"):
            found["bits"] = 8 * sums["bytes"] / sums["weights"]
        return found


def _hessians(inputs: Sequence[InputView], *, force: bool) -> dict[str, TensorSpec]:
    """The Hessian of each weight, where there are any.

    Raises:
        Mismatch: they are another model's.
    """
    if len(inputs) <= STATS:
        return {}
    model, stats = inputs[MODEL], inputs[STATS]
    record = HessianRecord.of(stats.header, stats.label)
    known = record.chain if model.sequential else record.model
    if not force and model.identify(known.partition(":")[0]) != known:
        raise Mismatch(
            "the statistics are those of another model",
            file=stats.label,
            expected=f"{model.fingerprint} ({model.label})",
            got=known,
            remedy="weightsmith calibrate MODEL, or --force",
        )
    return {weight: stats.header.by_name[name] for weight, name in record.weights.items()}
