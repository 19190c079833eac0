"""The --add option: inputs with a factor each, `DELTA=SCALE`, and patterns, `DELTA=GLOB=SCALE`."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from weightsmith.errors import UsageError, printable
from weightsmith.operators.numbers import decimal
from weightsmith.selection import Values

FLAG = "--add"


@dataclass(frozen=True)
class Addition:
    """An input to add.

    Attributes:
        address: what to open.
        scale: the factor on what it changes.
    """

    address: str
    scale: Values[Decimal]


def parse(texts: Sequence[str]) -> tuple[Addition, ...]:
    """Read the values of the option in their order.

    The first value of an address is its scale, whatever signs the address has; those after it
    give patterns, as `--scale` takes them.

    Raises:
        UsageError: a value without a scale, or a second scale for one address.
    """
    rules: dict[str, list[str]] = {}
    for text in texts:
        known = next((each for each in rules if text.startswith(f"{each}=")), None)
        if known is None:
            address, _, scale = text.rpartition("=")
            if not address:
                raise UsageError(f"{FLAG} {printable(text)}", expected=f"DELTA=SCALE, {text}=1 say")
            rules[address] = [scale]
            continue
        rule = text.removeprefix(f"{known}=")
        if "=" not in rule:
            raise UsageError(f"{FLAG} names {printable(known)} twice", remedy="add up the scales")
        rules[known].append(rule)
    return tuple(
        Addition(address, Values.parse(given, f"{FLAG} {printable(address)}", decimal))
        for address, given in rules.items()
    )
