"""What a checkpoint is known by, wherever it lies and however it is sharded."""

from collections.abc import Iterator
from hashlib import blake2b

from weightsmith.checkpoint.remote import DEFAULT_AHEAD, read_ahead
from weightsmith.checkpoint.source import Source
from weightsmith.header import TensorSpec

_SAMPLES = 4
_SAMPLE_BYTES = 64
_BLOCK = 1 << 20
_ROOM = 2 * 4096


def fingerprint(source: Source, *, full: bool = False) -> str:
    """Hash over sorted (name, dtype, shape, bytes), as 32 hex digits.

    Args:
        source: a seekable source.
        full: hash every byte; otherwise 64 bytes at four evenly spaced offsets of each tensor,
            which tells checkpoints of a family apart at once but would miss a small local edit.
    """
    digest = blake2b(b"full" if full else b"sampled", digest_size=16)
    area = memoryview(bytearray(_BLOCK + _ROOM))
    tensors = sorted(source.header.tensors, key=lambda spec: spec.name)
    # All samples fit into that memory, so they may be fetched as they lie: neighbours at once.
    order = tensors if full else source.header.tensors
    read_ahead(source, (span for spec in order for span in _spans(spec, full=full)), DEFAULT_AHEAD)
    for spec in tensors:
        digest.update(f"{len(spec.name.encode())}:{spec.name}{spec}".encode())
        for span in _spans(spec, full=full):
            digest.update(source.read(*span, area))
    return digest.hexdigest()


def _spans(spec: TensorSpec, *, full: bool) -> Iterator[tuple[str, int, int]]:
    size = _BLOCK if full else _SAMPLE_BYTES
    for start in range(0, spec.nbytes, _BLOCK) if full else _samples(spec.nbytes):
        yield spec.name, start, min(size, spec.nbytes - start)


def _samples(nbytes: int) -> list[int]:
    last = max(0, nbytes - _SAMPLE_BYTES)
    return sorted({last * i // (_SAMPLES - 1) for i in range(_SAMPLES)}) if nbytes else []
