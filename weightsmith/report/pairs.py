"""Which tensors of two checkpoints can be held against each other, from their headers alone."""

from dataclasses import dataclass
from itertools import pairwise

from weightsmith.checkpoint.source import Source
from weightsmith.dtypes import is_arithmetic
from weightsmith.errors import Mismatch
from weightsmith.header import TensorSpec
from weightsmith.selection import Selection


@dataclass(frozen=True)
class Pair:
    """A tensor that both have in one shape, each in an arithmetic dtype."""

    a: TensorSpec
    b: TensorSpec

    @property
    def name(self) -> str:
        """Its name in both."""
        return self.a.name


@dataclass(frozen=True)
class Pairing:
    """The pairs in the order in which they can be read, and why other tensors make none."""

    pairs: tuple[Pair, ...]
    apart: dict[str, str]

    @property
    def nbytes(self) -> int:
        """Bytes to read."""
        return sum(pair.a.nbytes + pair.b.nbytes for pair in self.pairs)


def pair(a: Source, b: Source, selection: Selection) -> Pairing:
    """Match the selected tensors of A and B by name.

    Raises:
        Mismatch: no pair is left, or two streams have their tensors in different orders.
        UsageError: a pattern matches nothing.
    """
    leader, other = (b, a) if b.sequential and not a.sequential else (a, b)
    names = [*leader.header.by_name]
    names += [name for name in other.header.by_name if name not in leader.header.by_name]
    selection.check(names)
    pairs: list[Pair] = []
    apart: dict[str, str] = {}
    for name in names:
        if name not in selection:
            continue
        left, right = a.header.by_name.get(name), b.header.by_name.get(name)
        if left is None or right is None:
            apart[name] = f"only in {'B' if left is None else 'A'}"
        elif left.shape != right.shape:
            apart[name] = f"shapes differ: {_shape(left)} and {_shape(right)}"
        elif not (is_arithmetic(left.dtype) and is_arithmetic(right.dtype)):
            odd = right.dtype if is_arithmetic(left.dtype) else left.dtype
            apart[name] = f"no arithmetic on {odd}"
        else:
            pairs.append(Pair(left, right))
    if not pairs:
        raise Mismatch(
            "no tensor can be compared",
            expected="equal names, shapes and arithmetic dtypes",
            got=f"{len(apart)} tensors that differ, the first because: {next(iter(apart.values()))}"
            if apart
            else "no tensor",
        )
    _check_order(other, pairs)
    return Pairing(tuple(pairs), apart)


def _shape(spec: TensorSpec) -> str:
    return "x".join(map(str, spec.shape)) or "scalar"


def _check_order(source: Source, pairs: list[Pair]) -> None:
    if not source.sequential:
        return
    offsets = source.header.offsets
    for before, after in pairwise(pairs):
        if offsets[after.name] < offsets[before.name]:
            raise Mismatch(
                "the streams do not have their tensors in the same order",
                file=source.label,
                tensor=after.name,
                remedy="give one of the inputs as a file",
            )
