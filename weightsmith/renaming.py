"""Rules that change the names of tensors: `s/REGEX/NEW/`, as in sed, on names.

Regular expressions are Python's, and so is NEW: `\\1` is the first group.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from weightsmith.errors import Mismatch, UsageError, printable
from weightsmith.header import Header

_ROLE = re.compile(r"(?:([a-z]+[0-9]*):)?s(?=[^\w\s\\])", re.ASCII)


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        text: as the user gave it.
        role: the input whose names it changes; empty for those that a command changes by default.
        pattern: what is looked for, anywhere in a name.
        new: what stands there instead, with `\\1` for groups.
        everywhere: whether every match is replaced (`g`), instead of the first.
    """

    text: str
    role: str
    pattern: re.Pattern[str]
    new: str
    everywhere: bool

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """Read `[ROLE:]s/REGEX/NEW/[g]`; any mark may stand for the slash.

        Raises:
            ValueError: it is no such rule.
        """
        begin = _ROLE.match(text)
        parts = text[begin.end() :] if begin else ""
        # The mark itself may be written in both parts with a backslash before it.
        fields = re.split(rf"(?<!\\){re.escape(parts[0])}", parts[1:]) if parts else []
        if begin is None or len(fields) != 3 or not fields[0] or fields[2] not in ("", "g"):
            raise ValueError("not [ROLE:]s/REGEX/NEW/ or [ROLE:]s/REGEX/NEW/g")
        regex, new = (field.replace(f"\\{parts[0]}", parts[0]) for field in fields[:2])
        try:
            pattern = re.compile(regex)
            # Finds a bad template even where nothing matches.
            re.compile(f"(?:{regex})|").sub(new, "")
        except (re.error, IndexError) as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return cls(text, begin[1] or "", pattern, new, fields[2] == "g")

    def __call__(self, name: str) -> str:
        """The new name."""
        return self.pattern.sub(self.new, name, count=0 if self.everywhere else 1)

    def __str__(self) -> str:
        return self.text


def renamed(
    rules: Sequence[Rule], inputs: Sequence[tuple[str, Header]], usual: Collection[str]
) -> list[dict[str, str]]:
    """Apply the rules, one after the other, to the names of every input.

    Args:
        rules: those that name no role change the inputs in `usual`.
        inputs: the role and the header of each.
        usual: roles.

    Returns:
        For each input the new names by the old, where they differ.

    Raises:
        UsageError: a rule changes nothing, or names a role that is not there.
        Mismatch: two tensors of an input would have one name.
    """
    names = [{spec.name: spec.name for spec in header.tensors} for _, header in inputs]
    for rule in rules:
        _check_role(rule, [role for role, _ in inputs])
        affected = [rule.role] if rule.role else usual
        changes = False
        for (role, _), current in zip(inputs, names, strict=True):
            if role in affected:
                before = list(current.values())
                current.update({old: rule(name) for old, name in current.items()})
                changes |= before != list(current.values())
        if not changes:
            raise UsageError(
                f"--rename '{printable(rule.text)}' changes no name",
                expected=f"a tensor of {', '.join(affected)} that it matches",
                remedy=_example(inputs, affected),
            )
    for role_names in names:
        _refuse_collisions(role_names)
    return [{old: new for old, new in each.items() if old != new} for each in names]


def _check_role(rule: Rule, roles: Sequence[str]) -> None:
    if rule.role and rule.role not in roles:
        raise UsageError(
            f"--rename '{printable(rule.text)}' names no input",
            expected=f"one of {', '.join(dict.fromkeys(roles))}",
            got=rule.role,
        )


def _example(inputs: Sequence[tuple[str, Header]], affected: Collection[str]) -> str | None:
    for role, header in inputs:
        if role in affected and header.tensors:
            return f"names look like {header.tensors[0].name}"
    return None


def _refuse_collisions(names: Mapping[str, str]) -> None:
    owner: dict[str, str] = {}
    for old, new in names.items():
        if not new and old:
            raise Mismatch("--rename leaves no name", tensor=old)
        if new in owner:
            raise Mismatch(
                f"--rename gives two tensors the name {printable(new)}",
                tensor=old,
                got=f"it is the name of {printable(owner[new])} too",
                remedy="a REGEX that matches only one of them, such as with ^ or $",
            )
        owner[new] = old
