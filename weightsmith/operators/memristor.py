"""memristor: what a checkpoint becomes when its weights lie on analog devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from weightsmith import devices
from weightsmith.errors import UsageError
from weightsmith.families import TRANSPOSED
from weightsmith.header import TensorSpec
from weightsmith.operators.analog import Job
from weightsmith.operators.configuration import config_of
from weightsmith.operators.delta import refuse_delta
from weightsmith.operators.numbers import count, natural
from weightsmith.operators.operator import (
    Draft,
    Function,
    Granularity,
    InputView,
    Operator,
    Request,
    Slot,
    TensorPlan,
    option,
    whole,
)
from weightsmith.operators.placement import Placement
from weightsmith.operators.provenance import QUANTIZATION
from weightsmith.operators.quantities import factor, layer_ranges, probability, seconds
from weightsmith.operators.registry import register
from weightsmith.operators.roles import family_of
from weightsmith.selection import Values

if TYPE_CHECKING:
    from weightsmith.crossbar.device import Device

_LARGEST_CODE = 2**24  # float32 holds every integer up to here


@register
@dataclass(frozen=True, kw_only=True)
class Memristor(Operator):
    """Put the linear weights of attention and MLP on analog devices, and read them back.

    Each row is scaled by tiles of 512 inputs onto the range of a device model, programmed with its
    noise, aged to --time and mapped back. What is written is one sample of a chip, decided by
    --seed. Embeddings, head, norms, biases and routers stay digital.

    What happens anew with every product (read noise, converters, wires) is no property of the
    weights and not modelled.
    """

    name: ClassVar[str] = "memristor"
    granularity: ClassVar[Granularity] = Granularity.ROW
    examples: ClassVar[str] = """
    weightsmith memristor model/ --device gaussian --sigma 0.02 -o noisy/
    weightsmith memristor model/ --device pcm --time 30d --compensate row -o aged/
    weightsmith memristor model/ --device pcm --copies 4 --copies-layers 0-9 -o redundant/
    """

    device: str = option(
        "--device",
        f"{', '.join(devices.names())}, or a file of constants NAME.toml",
        default="gaussian",
        metavar="DEVICE",
    )
    sigma: float | None = option(
        "--sigma", "gaussian: noise relative to the range (0.02)", default=None, convert=factor
    )
    rate: float | None = option(
        "--rate",
        "bitflip: probability that a bit flips (0.0001)",
        default=None,
        convert=probability,
    )
    noise: float = option(
        "--noise", "factor on programming noise", default=1.0, convert=factor, metavar="FACTOR"
    )
    time: float | None = option(
        "--time",
        "after programming: 20s, 1h, 1d, 30d, 1y",
        default=None,
        convert=seconds,
        metavar="TIME",
    )
    drift: float = option(
        "--drift", "factor on drift", default=1.0, convert=factor, metavar="FACTOR"
    )
    read_noise: float = option(
        "--read-noise",
        "factor on one frozen sample of 1/f noise",
        default=0.0,
        convert=factor,
        metavar="FACTOR",
    )
    compensate: str = option(
        "--compensate",
        "bring the mean size back by a digital factor",
        default="none",
        choices=("none", "tensor", "row"),
        metavar="none|tensor|row",
    )
    levels: int = option(
        "--levels",
        "conductances that a device can be set to; 0: any",
        default=0,
        convert=natural,
        metavar="L",
    )
    cells_per_weight: int = option(
        "--cells-per-weight",
        "cells that share a weight's digits in base L",
        default=1,
        convert=count,
        metavar="N",
    )
    stuck_on: float = option(
        "--stuck-on",
        "probability that a device is stuck at its highest conductance",
        default=0.0,
        convert=probability,
        metavar="P",
    )
    stuck_off: float = option(
        "--stuck-off",
        "probability that a device is stuck at its lowest",
        default=0.0,
        convert=probability,
        metavar="P",
    )
    copies: Values[int] = option(
        "--copies",
        "how often each weight is held",
        default="1",
        convert=count,
        per_tensor=True,
        metavar="N",
    )
    copies_layers: str | None = option(
        "--copies-layers",
        "hold only these layers so often, others once: 0-7,12",
        default=None,
        convert=layer_ranges,
        metavar="LAYERS",
    )
    combine: str = option(
        "--combine",
        "how copies are read",
        default="mean",
        choices=("mean", "median"),
        metavar="mean|median",
    )
    scale: str = option(
        "--scale",
        "what one scale covers: a row's tile, or the tensor",
        default="row",
        choices=("row", "tensor"),
        metavar="row|tensor",
    )
    tile: int = option(
        "--tile", "most inputs of a tile; 0: whole rows", default=512, convert=natural, metavar="N"
    )
    also: str | None = option(
        "--also", "put these on devices too, such as lm_head.weight", default=None, metavar="GLOB"
    )
    seed: int = option("--seed", "which chip", default=0, convert=natural, metavar="SEED")

    @cached_property
    def model(self) -> Device:
        """The device model, at the time that was asked for."""
        model: Any = devices.load(self.device)
        if self.sigma is not None:
            if model.name != "gaussian":
                raise UsageError(
                    "--sigma is for --device gaussian",
                    got=f"--device {self.device}",
                    remedy="--noise scales the programming noise of any device",
                )
            model = replace(model, relative=self.sigma)
        if self.rate is not None:
            if model.name != "bitflip":
                raise UsageError("--rate is for --device bitflip", got=f"--device {self.device}")
            model = replace(model, rate=self.rate)
        aged: Device = model.at(self.time)
        return aged

    def plan(self, inputs: Sequence[InputView], request: Request) -> Draft:
        """See Operator."""
        self._check()
        view = inputs[0]
        refuse_delta(view, "graft it onto a model first")
        placement = Placement.of(
            view, request.selection, self.also, self.copies, self.copies_layers
        )
        if placement.packed and self._stored:
            raise UsageError(
                "bitflip knows numbers only, not packed trits",
                file=view.label,
                remedy="weightsmith unpack makes them dense",
            )
        granularity = Granularity.TENSOR if "tensor" in (self.scale, self.compensate) else None

        def put(source: TensorSpec, spec: TensorSpec) -> TensorPlan:
            copies, encoding = placement.copies.get(spec.name), placement.packed.get(spec.name)
            job = Job(copies or 0, encoding) if copies or encoding else None
            note = placement.digital[spec.name] if len(spec.shape) > 1 else ""
            return whole(request.output(spec), (Slot(0, source),), job, note, granularity)

        return Draft(
            tuple(map(put, view.header.tensors, placement.specs)),
            config_patch={QUANTIZATION: None} if placement.packed else {},
            warnings=self._warnings(view),
            summary=() if self._stored else (placement.cost(self._per_cell),),
        )

    @property
    def _stored(self) -> bool:
        return self.model.cell.value == "stored"

    @property
    def _per_cell(self) -> int:
        from weightsmith.crossbar.cells import Mapping as Cells

        return Cells(self.model, self.levels, self.cells_per_weight).per_weight

    def _check(self) -> None:
        """Everything that is wrong without regard to tensors."""
        model = self.model
        stuck = self.stuck_on > 0 or self.stuck_off > 0
        if stuck and model.cell.value in ("signed", "stored"):
            raise UsageError(
                f"{model.name} models weights, not devices that could be stuck",
                remedy="--device pcm, rram-wan or rram-cmo",
            )
        if self.stuck_on + self.stuck_off > 1:
            raise UsageError("--stuck-on and --stuck-off together are more than 1")
        if self.levels == 1:
            raise UsageError("--levels 1 holds nothing", expected="0 (any), or at least 2")
        if self.cells_per_weight > 1 and not self.levels:
            raise UsageError("--cells-per-weight needs --levels L, the base of the digits")
        if self.levels**self.cells_per_weight > _LARGEST_CODE:
            raise UsageError("--levels to the power of --cells-per-weight is above 2^24")
        if self.read_noise and not model.reads:
            raise UsageError(f"{model.name} has no data on 1/f noise", remedy="leave --read-noise")
        if self.combine == "median" and max(n for _, n in self.copies.rules) < 3:
            raise UsageError("--combine median needs at least --copies 3")
        if self._stored and (self.levels or self.noise != 1 or self.compensate != "none"):
            raise UsageError("bitflip knows neither --levels nor --noise nor --compensate")

    def _warnings(self, view: InputView) -> tuple[str, ...]:
        found = []
        if self.time and self.model.drifts and self.compensate == "none":
            found.append("drift without --compensate is for the most part an error of gain")
        family = family_of(config_of(view))
        if family in TRANSPOSED:
            found.append(f"{family} stores weights [in, out]: rows and tiles run along outputs")
        return tuple(found)

    def record(self) -> dict[str, Any]:
        """See Operator; the device with all its constants, not the name of a file."""
        given = {key: value for key, value in super().record().items() if value is not None}
        return given | {"device": self.model.record()}

    def function(self) -> Function:
        """See Operator."""
        from weightsmith.operators.analog import flipping, holding

        return flipping(self) if self._stored else holding(self)

    def summarise(self, sums: Mapping[str, float]) -> dict[str, float]:
        """See Operator."""
        from weightsmith.crossbar.tally import figures

        return figures(sums)
