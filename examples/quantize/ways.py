"""The ways of the table, each with what it is made from and how."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Way:
    """One row: `options` are those of ptqtp, or `bits` those of an integer grid."""

    name: str
    options: tuple[str, ...] = ()
    bits: int | None = None
    rotated: bool = False
    calibrated: bool = False


_STATS = ("--stats", "STATS")
WAYS = (
    Way("paper's Algorithm 1", ("--fit", "paper")),
    Way("search", ()),
    Way("search, scales tied 3:2", ("--ratio", "3:2")),
    Way("search, best of four ratios", ("--ratio", "auto")),
    Way("diagonal", (*_STATS, "--stats-use", "diag")),
    Way("error feedback", _STATS),
    Way("rotated, search", (), rotated=True),
    Way("rotated, error feedback", _STATS, rotated=True),
    Way("three planes, search", ("--planes", "3")),
    Way("three planes, rotated, error feedback", ("--planes", "3", *_STATS), rotated=True),
    Way("3-bit integers, nearest", bits=3),
    Way("3-bit integers, error feedback", bits=3, calibrated=True),
    Way("3-bit integers, rotated, error feedback", bits=3, calibrated=True, rotated=True),
    Way("4-bit integers, nearest", bits=4),
    Way("4-bit integers, error feedback", bits=4, calibrated=True),
    Way("4-bit integers, rotated, error feedback", bits=4, calibrated=True, rotated=True),
)
