"""Open the inputs of a run and gather what an operator may know of each before any data."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from weightsmith.checkpoint.adapter import adapter_config
from weightsmith.checkpoint.fingerprint import fingerprint
from weightsmith.checkpoint.hub import Address, download_sidecars, is_hub
from weightsmith.checkpoint.renamed import RenamedSource
from weightsmith.checkpoint.sidecar import Sidecars
from weightsmith.checkpoint.source import Source, open_source
from weightsmith.checkpoint.tokenizer import Tokenizer
from weightsmith.engine.link import Link, behind
from weightsmith.errors import UsageError
from weightsmith.operators.operator import Input, InputView, Operator
from weightsmith.operators.provenance import SIDECARS, lineage, stream_fingerprint

STDIN = ("-", "/dev/stdin", "/dev/fd/0")


@contextmanager
def opened(
    addresses: Sequence[str], notice: Callable[[str], None], *, stream: bool = False
) -> Iterator[tuple[Source, ...]]:
    """Open all inputs, files first: a wrong path should not cost a wait for a stream.

    Args:
        addresses: as given on the command line.
        notice: told when something is waited for.
        stream: read hub addresses by byte ranges rather than download them.
    """
    if sum(address in STDIN for address in addresses) > 1:
        raise UsageError("standard input can be only one of the inputs")
    sources: dict[int, Source] = {}
    try:
        for index in sorted(range(len(addresses)), key=lambda i: addresses[i] == "-"):
            sources[index] = open_source(addresses[index], notice, stream=stream)
        yield tuple(sources[index] for index in range(len(addresses)))
    finally:
        for source in sources.values():
            source.close()


def view(
    source: Source, described: Input, *, full_digest: bool, asked: str | None = None
) -> InputView:
    """What an operator sees of a source; `asked` is --sidecars where it speaks of this source."""
    piped = comes_by_pipe(source)

    def identify(scheme: str) -> str:
        if piped or scheme not in ("sampled", "full"):
            return stream_fingerprint(source.header)
        return f"{scheme}:{fingerprint(source, full=scheme == 'full')}"

    known = identify("full" if full_digest else "sampled")
    sidecars = find_sidecars(source, asked, allow_code=False)
    return InputView(
        described.role,
        source.label,
        source.header,
        known,
        lineage(source.header, known),
        piped,
        sidecars.config() if sidecars else None,
        Tokenizer.of(sidecars) if sidecars else None,
        None if piped else source.identity(),
        identify,
        described.many,
        adapter_config(source),
    )


def comes_by_pipe(source: Source) -> bool:
    """Whether a source is a stream, or stands for one: only its header tells what it is."""
    return source.sequential or isinstance(behind(source), Link)


def renamed(
    operator: Operator, sources: Sequence[Source], views: Sequence[InputView]
) -> tuple[tuple[Source, ...], list[InputView]]:
    """The inputs with the names that the operator gives them; fingerprints stay what they were."""
    names = operator.renamed(views)
    named = tuple(
        RenamedSource(source, new) if new else source
        for source, new in zip(sources, names, strict=True)
    )
    return named, [
        replace(view, header=source.header) for view, source in zip(views, named, strict=True)
    ]


def find_sidecars(primary: Source, asked: str | None, *, allow_code: bool) -> Sidecars | None:
    """The sidecar files the output takes: --sidecars, else the primary input's.

    A stream only points to where its files were on this machine, and its word is not trusted: known
    names only, and only beside a config.json.
    """
    if asked == "none":
        return None
    if asked is not None and is_hub(asked):
        return Sidecars.of_directory(download_sidecars(Address.parse(asked)))
    if asked is not None:
        if not Path(asked).is_dir():
            raise UsageError("--sidecars: no such directory", file=asked)
        return Sidecars.of_directory(Path(asked))
    return primary.sidecars or _pointed_to(primary, allow_code=allow_code)


def _pointed_to(source: Source, *, allow_code: bool) -> Sidecars | None:
    pointer = source.header.metadata.get(SIDECARS)
    if not comes_by_pipe(source) or pointer is None or not Path(pointer).is_absolute():
        return None
    return Sidecars.known(Path(pointer), allow_code=allow_code)
