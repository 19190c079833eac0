"""What an operator is: parameters, a plan made from headers, and a pure function on arrays.

A new operator is a frozen dataclass in a file of this package, decorated with
`registry.register`; its fields become the command's options. Nothing else has to change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from weightsmith.dtypes import is_arithmetic
from weightsmith.errors import UsageError
from weightsmith.header import Header, TensorSpec
from weightsmith.selection import Selection, Values

if TYPE_CHECKING:
    from weightsmith.checkpoint.tokenizer import Tokenizer
    from weightsmith.operators.unit import Unit

OPTION = "weightsmith.option"
Function = Callable[["Unit"], "int | None"]


class Granularity(StrEnum):
    """Where a tensor may be cut into work units."""

    ELEMENT = "element"
    ROW = "row"
    TENSOR = "tensor"


@dataclass(frozen=True)
class Input:
    """A checkpoint that the command takes.

    Attributes:
        role: its name in the formula, such as "base"; the argument is its upper case.
        help: one line.
        stdin: whether it defaults to a stream on standard input.
        many: whether it takes all remaining arguments.
        flag: such as "--stats": an option names it, and it may be left out. Last of all inputs
            but those that `Operator.further` adds.
    """

    role: str
    help: str
    stdin: bool = False
    many: bool = False
    flag: str | None = None


@dataclass(frozen=True)
class Option:
    """How a dataclass field appears on the command line.

    Attributes:
        flag: such as "--scale".
        help: one line.
        metavar: what stands for the value.
        convert: reads one value from text, raising ValueError; None for a switch.
        choices: the allowed values, if they are few.
        per_tensor: whether it takes a default and patterns (`PATTERN=VALUE`).
        repeated: whether it may be given again; the field is a tuple of values in their order.
    """

    flag: str
    help: str
    metavar: str
    convert: Callable[[Any], Any] | None
    choices: tuple[str, ...] = ()
    per_tensor: bool = False
    repeated: bool = False


def option(
    flag: str,
    help: str,  # noqa: A002 - the word that command lines use
    *,
    default: Any,
    metavar: str = "VALUE",
    convert: Callable[[Any], Any] = str,
    choices: tuple[str, ...] = (),
    per_tensor: bool = False,
    repeated: bool = False,
) -> Any:
    """Declare a field of an operator as an option of its command."""
    switch = isinstance(default, bool)
    reads = None if switch else convert
    described = Option(flag, help, metavar, reads, choices, per_tensor, repeated)
    return field(default=default, metadata={OPTION: described})


@dataclass(frozen=True)
class InputView:
    """What may be known of an input before any data is read.

    Attributes:
        role: its name in the formula.
        label: how messages call it.
        header: tensors and metadata.
        fingerprint: see checkpoint.fingerprint; of a stream, that of its provenance.
        lineage: its node in a provenance record.
        sequential: whether it is a stream.
        config: its config.json, if it is known.
        tokenizer: its tokenizer, if it is known.
        identity: what tells its data from any other on this machine; None for a stream.
        identify: computes the fingerprint that another scheme gives ("sampled", "full", ...).
        many: whether it is one of any number of inputs of its role.
        adapter: the configuration of a low-rank adapter, if it is one.
    """

    role: str
    label: str
    header: Header
    fingerprint: str
    lineage: Mapping[str, Any]
    sequential: bool = False
    config: Mapping[str, Any] | None = None
    tokenizer: Tokenizer | None = None
    identity: object = None
    identify: Callable[[str], str] = lambda scheme: f"{scheme}:unknown"
    many: bool = False
    adapter: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Slot:
    """A tensor of one input, or a run of its elements.

    Attributes:
        source: the input.
        spec: the tensor, or the part of it that stands for a tensor of this shape.
        whole: asks for all of it with every unit, such as a vector that each row needs.
        start: which element of the input's tensor the part begins with. Negative where the part
            belongs to a later segment of the output, whose elements count from the output's first.
    """

    source: int
    spec: TensorSpec
    whole: bool = False
    start: int = 0


@dataclass(frozen=True)
class Segment:
    """A run of elements of an output tensor that is made in one way.

    Attributes:
        start, stop: elements of the output tensor. Of a slot they are the same elements or, where
            its rows have another length, the same rows.
        slots: the inputs; exactly one if copied.
        parameters: handed to the function; None means the elements are copied (and cast).
    """

    start: int
    stop: int
    slots: tuple[Slot, ...]
    parameters: Any = None


@dataclass(frozen=True)
class TensorPlan:
    """An output tensor and what it is made of.

    Attributes:
        spec: name, dtype and shape.
        segments: cover it from its first element to its last.
        note: says why, where it is not obvious.
        granularity: where it may be cut, if not as the operator says.
    """

    spec: TensorSpec
    segments: tuple[Segment, ...]
    note: str = ""
    granularity: Granularity | None = None

    @property
    def changed(self) -> bool:
        """Whether any element is computed."""
        return any(segment.parameters is not None for segment in self.segments)


@dataclass(frozen=True)
class Draft:
    """What `plan` returns.

    Attributes:
        tensors: every output tensor, in order.
        skipped: every input tensor that is left out, with the reason.
        config_patch: JSON merge patch for config.json.
        metadata: entries to add to the output's `__metadata__`.
        warnings: what the user should know.
        lineage: nodes that stand for inputs in the provenance, by role, where the operator
            knows better than the input itself; a list for a role of any number of inputs.
        transparent: nothing is changed, so the header and the provenance stay as they are.
        summary: lines for the end report that are known before any data.
        primary: the input that gives sharding and sidecar files, if not the operator's own.
    """

    tensors: tuple[TensorPlan, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    config_patch: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    lineage: Mapping[str, Any] = field(default_factory=dict)
    transparent: bool = False
    summary: tuple[str, ...] = ()
    primary: int | None = None


@dataclass(frozen=True)
class Request:
    """What every operator is asked besides its own parameters.

    Attributes:
        selection: the tensors to work on.
        dtype: the output dtype of arithmetic tensors, or None for each input's own.
        force: go on where fingerprints do not match.
    """

    selection: Selection = field(default_factory=Selection)
    dtype: str | None = None
    force: bool = False

    def output(self, spec: TensorSpec, default: str | None = None) -> TensorSpec:
        """The spec with the dtype that the output has: --dtype, else `default`, else its own."""
        if not is_arithmetic(spec.dtype):
            return spec
        return TensorSpec(spec.name, self.dtype or default or spec.dtype, spec.shape)


@dataclass(frozen=True, kw_only=True)
class Operator:
    """Base of all operators; see the module's docstring."""

    name: ClassVar[str]
    inputs: ClassVar[tuple[Input, ...]] = (Input("model", "the checkpoint", stdin=True),)
    primary: ClassVar[int] = 0
    granularity: ClassVar[Granularity] = Granularity.ELEMENT
    # How many times its largest array in float32 a tensor that cannot be cut takes, besides inputs
    # and output as they are stored.
    working_arrays: ClassVar[int] = 10
    uses: ClassVar[frozenset[str]] = frozenset()  # of "device", "cache", "spool"
    examples: ClassVar[str] = ""

    def plan(self, inputs: Sequence[InputView], request: Request) -> Draft:
        """Decide from headers alone what the output is.

        The default fits operators with one input that keep names, shapes and dtypes: selected
        arithmetic tensors go through the function with the values of the operator's per-tensor
        options as parameters (a dict by field name), all others are copied.

        Raises:
            UsageError: the parameters do not fit the tensors.
            Mismatch: the inputs do not fit each other.
        """
        header = inputs[0].header
        request.selection.check([spec.name for spec in header.tensors])
        wanted = [
            spec.name
            for spec in header.tensors
            if spec.name in request.selection and is_arithmetic(spec.dtype)
        ]
        values = {
            name: value.resolve(wanted)
            for name, value in self._parameters()
            if isinstance(value, Values)
        }
        chosen = set(wanted)
        return Draft(
            tuple(
                whole(
                    request.output(spec),
                    (Slot(0, spec),),
                    {name: by_tensor[spec.name] for name, by_tensor in values.items()}
                    if spec.name in chosen
                    else None,
                )
                for spec in header.tensors
            )
        )

    @property
    def reads_stdin(self) -> bool:
        """Whether an input that defaults to standard input is there at all if left out."""
        return True

    def further(self) -> tuple[tuple[Input, str], ...]:
        """Inputs that the options name, with their addresses; they come after all others."""
        return ()

    def renamed(self, inputs: Sequence[InputView]) -> Sequence[Mapping[str, str]]:
        """New names of tensors by their old ones, for each input; `plan` knows only the new."""
        return [{}] * len(inputs)

    def function(self) -> Function:
        """Import what the arithmetic needs and return the function on one work unit.

        The function writes `unit.out` and returns how many finite values overflowed.
        """
        raise NotImplementedError

    def summarise(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The figures of one tensor from what its units reported, added up (see Unit.report)."""
        return dict(sums)

    def record(self) -> dict[str, Any]:
        """The parameters for provenance, in one normal form."""
        return {
            name: _recorded(value)
            for name, value in self._parameters()
            if not isinstance(value, bool | tuple) or value
        }

    def _parameters(self) -> list[tuple[str, Any]]:
        return [(item.name, getattr(self, item.name)) for item in fields(self)]

    def __post_init__(self) -> None:
        for item in fields(self):
            described: Option | None = item.metadata.get(OPTION)
            if described is not None and described.convert is not None:
                given = getattr(self, item.name)
                object.__setattr__(self, item.name, _convert(described, given))


def _recorded(value: Any) -> Any:
    if isinstance(value, Values):
        return value.record()
    return [str(each) for each in value] if isinstance(value, tuple) else value


def _convert(described: Option, given: Any) -> Any:
    assert described.convert is not None
    if isinstance(given, Values) or given is None:
        return given
    if described.per_tensor:
        return Values.parse(given, described.flag, described.convert)
    if described.repeated:
        texts = [given] if isinstance(given, str) else given
        return tuple(_convert(replace(described, repeated=False), text) for text in texts)
    try:
        value = described.convert(str(given))
    except ValueError as error:
        raise UsageError(f"{described.flag} {given}: {error}") from None
    if described.choices and value not in described.choices:
        allowed = ", ".join(described.choices)
        raise UsageError(f"{described.flag} {given}", expected=f"one of {allowed}")
    return value


def whole(
    spec: TensorSpec,
    slots: tuple[Slot, ...],
    parameters: Any,
    note: str = "",
    granularity: Granularity | None = None,
) -> TensorPlan:
    """A tensor made in one way from start to end."""
    return TensorPlan(spec, (Segment(0, spec.numel, slots, parameters),), note, granularity)
