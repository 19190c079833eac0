"""verify: read every byte of a checkpoint and say whether it is sound."""

import json
from functools import partial
from typing import Annotated

import typer

from weightsmith.checkpoint.remote import read_all_ahead
from weightsmith.checkpoint.source import Source
from weightsmith.cli.options import Json, Quiet, Stream
from weightsmith.cli.screen import human_size
from weightsmith.dtypes import is_arithmetic
from weightsmith.engine.inputs import opened, view
from weightsmith.engine.units import Arena
from weightsmith.errors import ExitCode, Mismatch, UsageError, printable
from weightsmith.operators.configuration import quantization_of
from weightsmith.operators.operator import Input, InputView
from weightsmith.operators.provenance import inputs_of, record_of
from weightsmith.operators.unit import Block
from weightsmith.tritplanes.encoding import Encoding

_BLOCK = 1 << 20
_OTHER_FLOATS = ("F64", "F8_E5M2", "F8_E4M3")


def verify(
    model: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL]",
            help="a checkpoint [default: - (standard input)]",
            show_default=False,
        ),
    ] = "-",
    fingerprint: Annotated[
        str | None,
        typer.Option(metavar="SCHEME:HEX", help="The fingerprint that MODEL must have."),
    ] = None,
    input_of: Annotated[
        str | None,
        typer.Option(metavar="OTHER", help="A checkpoint whose provenance must name MODEL."),
    ] = None,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="NaN and infinity are no failure.")
    ] = False,
    stream: Stream = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check the header and every byte range, and look for NaN and infinity.

    Ends 0 if all is well, 1 for values that are not finite, 3 for a file that is not valid, 4 for
    another fingerprint.

    \b
    Examples:
      weightsmith verify model/
      weightsmith verify base/ --input-of grafted/
    """
    notice = partial(typer.echo, err=True)
    with opened([model], notice, stream=stream) as (source,):
        seen = view(source, Input("model", ""), full_digest=False)
        if fingerprint is not None:
            _check_fingerprint(seen, fingerprint)
        roles = _roles(seen, input_of) if input_of is not None else []
        packed = quantization_of(seen)
        encodings = packed.tensors if packed else {}
        read_all_ahead(source, source.header.tensors)
        bad = {
            spec.name: counts
            for spec in source.header.tensors
            if any(counts := _examine(source, spec.name, encodings.get(spec.name)))
        }
        source.finish()
    if as_json:
        facts = {
            "model": seen.label,
            "fingerprint": seen.fingerprint,
            "tensors": len(seen.header.tensors),
            "bytes": seen.header.nbytes,
            "roles": roles,
            "nonfinite": {n: {"nan": nan, "infinite": inf} for n, (nan, inf) in bad.items()},
        }
        print(json.dumps(facts, ensure_ascii=False))
    elif not quiet:
        for name, (nan, infinite) in bad.items():
            print(f"{printable(name)}: {nan} NaN, {infinite} infinite")
        state = "not finite in places" if bad else "sound"
        as_input = f", the {' and '.join(roles)} of {input_of}" if roles else ""
        size = human_size(seen.header.nbytes)
        print(
            f"{printable(seen.label)}: {state}, {len(seen.header.tensors)} tensors, "
            f"{size}{as_input}"
        )
    if bad and not allow_nonfinite:
        raise typer.Exit(ExitCode.FAILED)


def _check_fingerprint(seen: InputView, wanted: str) -> None:
    scheme, colon, _ = wanted.partition(":")
    if not colon or scheme not in ("sampled", "full", "chain", "header"):
        raise UsageError(f"--fingerprint {wanted}", expected="such as sampled:0123abcd")
    found = seen.identify(scheme)
    if found != wanted:
        raise Mismatch("another fingerprint", file=seen.label, expected=wanted, got=found)


def _roles(seen: InputView, other: str) -> list[str]:
    with opened([other], lambda _: None, stream=True) as (source,):
        record = record_of(source.header.metadata)
    named = list(inputs_of(record)) if record else []
    roles = [role for role, found in named if found == seen.identify(found.partition(":")[0])]
    if not roles:
        raise Mismatch(
            "the provenance does not name this checkpoint",
            file=other,
            expected=", ".join(f"{role} {found}" for role, found in named) or "a record",
            got=f"{seen.fingerprint} ({seen.label})",
        )
    return roles


def _examine(source: Source, name: str, encoding: Encoding | None) -> tuple[int, int]:
    """Read a whole tensor; counts NaN and infinite elements of dtypes that have them.

    Raises:
        InvalidFile: packed rows with codes that are no trits, or scales that are no scales.
    """
    from weightsmith.kernels import elementwise

    spec = source.header.by_name[name]
    row = encoding.row_bytes if encoding else 1
    step = max(1, _BLOCK // row) * row
    nan = infinite = 0
    for start in range(0, spec.nbytes, step):
        size = min(step, spec.nbytes - start)
        data = source.read(name, start, size, _ARENA.area(0, size))
        if encoding is not None:
            from weightsmith.operators.arithmetic.quantizing import decode

            decode(Block(spec.dtype, data, (size // row, row)), encoding, name)
        elif is_arithmetic(spec.dtype) or spec.dtype in _OTHER_FLOATS:
            found = elementwise.count_nonfinite(data, spec.dtype)
            nan, infinite = nan + found[0], infinite + found[1]
    return nan, infinite


_ARENA = Arena()
