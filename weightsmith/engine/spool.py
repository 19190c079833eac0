"""Which tensors of a stream have to wait because a plan reads them late, or more than once."""

from collections.abc import Sequence

from weightsmith.header import Header
from weightsmith.operators.operator import TensorPlan


def waiting(source: int, header: Header, tensors: Sequence[TensorPlan]) -> dict[str, str]:
    """The tensors of a source that cannot be read as they pass by.

    Args:
        source: the index of the input.
        header: its header.
        tensors: the output, in the order in which it is made.

    Returns:
        For each, the last output tensor that is made of it.
    """
    offsets, specs = header.offsets, header.by_name
    late: set[str] = set()
    last: dict[str, str] = {}
    front = 0
    for tensor in tensors:
        slots = [
            slot for segment in tensor.segments for slot in segment.slots if slot.source == source
        ]
        ends = {s.spec.name: offsets[s.spec.name] + specs[s.spec.name].nbytes for s in slots}
        late |= {slot.spec.name for slot in slots if slot.whole}
        farthest = sorted(ends, key=ends.__getitem__)[-2:]
        for name in ends:
            # Units of one output tensor read their inputs in turn, so none may lie before another.
            reach = max([front, *(ends[other] for other in farthest if other != name)])
            if name in last or offsets[name] < reach:
                late.add(name)
            last[name] = tensor.spec.name
        front = max([front, *ends.values()])
    return {name: last[name] for name in late}
