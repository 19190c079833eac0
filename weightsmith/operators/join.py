"""Bring several checkpoints together tensor by tensor, and refuse what would merge into garbage.

Each way in which names, shapes and dtypes can differ has a policy: refused by default where a
silent choice could hurt, with the option that decides. Every tensor of every input ends in the
output, in `skipped` with a reason, or in an error.
"""

from collections.abc import Sequence

from weightsmith.errors import Mismatch, printable
from weightsmith.operators.expert_names import other, other_form
from weightsmith.operators.float8 import refuse_float8
from weightsmith.operators.matching import Joined, Match, Matching, is_tied_head, lacking_inputs
from weightsmith.operators.operator import InputView, Request
from weightsmith.operators.policies import JoiningOperator

__all__ = ["Joined", "JoiningOperator", "Match", "check_tokenizers", "join"]


def join(
    policy: JoiningOperator,
    inputs: Sequence[InputView],
    participants: Sequence[int],
    request: Request,
    *,
    copies: bool = True,
    any_dtype: bool = False,
) -> Joined:
    """Match the tensors of `participants` (indices of inputs) by name.

    Args:
        policy: the operator, for its policies and its primary input.
        inputs: all inputs.
        participants: those that must have each tensor.
        request: for the selection.
        copies: whether tensors that are not computed are copied; otherwise they are skipped.
        any_dtype: whether the operator works on bits, so that equal dtypes are all it needs.

    Raises:
        Mismatch: what differs has no policy that allows it.
        UsageError: a pattern matches nothing.
    """
    names = _ordered_names(policy.primary, inputs, participants)
    request.selection.check(names)
    for index in participants:
        if not any_dtype:
            refuse_float8(inputs[index].label, inputs[index].header, request.selection)
    check_tokenizers(policy, inputs, participants)
    _check_missing(policy, inputs, participants, names, request)
    joined = Joined()
    for name in names:
        joining = Matching(policy, inputs, participants, joined, copies, any_dtype)
        joining.add(name, name in request.selection)
    return joined


def _ordered_names(
    primary: int, inputs: Sequence[InputView], participants: Sequence[int]
) -> list[str]:
    # A stream dictates the order, for it passes by only once.
    leaders = sorted(participants, key=lambda i: (not inputs[i].sequential, i != primary))
    return list(
        dict.fromkeys(spec.name for index in leaders for spec in inputs[index].header.tensors)
    )


def check_tokenizers(
    policy: JoiningOperator, inputs: Sequence[InputView], participants: Sequence[int]
) -> None:
    """Raise Mismatch where a participant and the primary input give one id two meanings."""
    first = inputs[policy.primary]
    if policy.tokenizers == "ignore" or first.tokenizer is None:
        return
    for index in participants:
        other = inputs[index]
        if index == policy.primary or other.tokenizer is None:
            continue
        if conflict := first.tokenizer.first_conflict(other.tokenizer):
            number, ours, theirs = conflict
            raise Mismatch(
                f"token {number} means two things",
                file=other.label,
                expected=f"{printable(ours)!r} as in {first.label}",
                got=f"{printable(theirs)!r}",
                remedy="--tokenizers ignore if these ids do not matter",
            )


def _check_missing(
    policy: JoiningOperator,
    inputs: Sequence[InputView],
    participants: Sequence[int],
    names: Sequence[str],
    request: Request,
) -> None:
    lacking = {
        name: views
        for name in names
        if name in request.selection and (views := lacking_inputs(name, inputs, participants))
    }
    primary = inputs[policy.primary].header.by_name
    lost = [
        name
        for name, views in lacking.items()
        if (
            policy.lm_head == "error"
            and (
                policy.missing == "error"
                or
                # Dropped, it would leave a config that promises a head.
                (policy.missing == "drop" and name in primary)
            )
            if is_tied_head(name, views)
            else policy.missing == "error"
        )
    ]
    if not lost:
        return
    name, view = lost[0], lacking[lost[0]][0]
    if is_tied_head(name, lacking[name]):
        raise Mismatch(
            "the head is tied to the embedding in one input and not in the other",
            file=view.label,
            tensor=name,
            remedy="--lm-head untie (the embedding stands in for it) or --lm-head tie (drop it)",
        )
    if form := other_form(name, view.header):
        owner = next(each for each in inputs if name in each.header.by_name)
        first, second = (view, owner) if name in primary else (owner, view)
        wanted = form if name in primary else other(form)
        raise Mismatch(
            f"the experts are {form} in one input and {other(form)} in the other",
            file=view.label,
            tensor=name,
            remedy=f"weightsmith experts {first.label} --to {wanted} makes them those of "
            f"{second.label}, by pipe or with -o",
        )
    more = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
    raise Mismatch(
        f"tensor is missing in one input{more}",
        file=view.label,
        tensor=name,
        remedy="--missing keep copies the primary input's, --missing drop leaves it out; "
        "--rename if it only has another name there",
    )
