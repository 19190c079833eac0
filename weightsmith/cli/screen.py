"""What people see: progress, notices and reports, on standard error unless it is the result."""

import json
import os
import stat
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from weightsmith.engine.execute import Observer
from weightsmith.engine.outcome import Outcome
from weightsmith.errors import printable

if TYPE_CHECKING:
    from tqdm import tqdm


def human_size(nbytes: float) -> str:
    """Bytes in decimal units: 269.1 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


class Screen:
    """The terminal of one command.

    Args:
        name: the command.
        given: the values of its options: quiet, verbose, json and output are looked at.
    """

    def __init__(self, name: str, given: dict[str, Any]) -> None:
        self._name = name
        self._quiet, self._verbose = given["quiet"], given["verbose"]
        self._json = given["json"]
        self._data_on_stdout = given["output"] == "-" and not given["dry_run"]
        self._bar: tqdm[Any] | None = None
        if self._quiet:
            # Read by the Hub's client, should there be downloads.
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        self.observer = Observer(self.notice, self._begin, self._tick)

    def notice(self, text: str) -> None:
        """One line on standard error."""
        self._notice(self._name, text)

    def _notice(self, name: str, text: str) -> None:
        # JSON on the same stream has to stay readable.
        if not self._quiet and not (self._json and self._data_on_stdout):
            print(f"weightsmith {name}: {text}", file=sys.stderr)

    def _begin(self, nbytes: int) -> None:
        # In a pipe only the last stage shows a bar: several would write over each other.
        piped = stat.S_ISFIFO(os.fstat(1).st_mode)
        if self._quiet or piped or not sys.stderr.isatty():
            return
        from tqdm import tqdm

        self._bar = tqdm(total=nbytes, unit="B", unit_scale=True, desc=self._name, leave=False)

    def _tick(self, nbytes: int) -> None:
        if self._bar is not None:
            self._bar.update(nbytes)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def report(self, outcome: Outcome, *, dry_run: bool) -> None:
        """The end report, or the plan of a dry run; of a chain, link after link."""
        every = (*outcome.links, outcome)
        for each in every:
            for warning in (*each.warnings, *each.summary):
                self._notice(each.operator, warning)
        if self._json:
            stream = sys.stderr if self._data_on_stdout else sys.stdout
            print(json.dumps(asdict(outcome), ensure_ascii=False), file=stream)
            return
        for each in every:
            if self._verbose or dry_run:
                self._tensors(each, sys.stdout if dry_run else sys.stderr)
            summary = _summary(each, dry_run=dry_run)
            self._notice(each.operator, ("plan: " if dry_run else "") + summary)

    def _tensors(self, outcome: Outcome, stream: Any) -> None:
        copied = set(outcome.copied)
        for tensor in outcome.tensors:
            name = tensor["name"]
            what = "copied" if name in copied else "changed"
            said = [outcome.notes[name]] if name in outcome.notes else []
            said += [f"{key} {value:.4g}" for key, value in outcome.figures.get(name, {}).items()]
            note = f"  ({', '.join(said)})" if said else ""
            shape = "x".join(map(str, tensor["shape"])) or "scalar"
            print(f"{what:8}{tensor['dtype']:5} {shape:>14}  {printable(name)}{note}", file=stream)
        for name, reason in outcome.skipped.items():
            print(f"{'skipped':8}{'':20}  {printable(name)}  ({reason})", file=stream)


def _summary(outcome: Outcome, *, dry_run: bool) -> str:
    parts = [f"{len(outcome.changed)} tensors changed, {len(outcome.copied)} copied"]
    if outcome.skipped:
        parts.append(f"{len(outcome.skipped)} skipped")
    if outcome.resumed:
        parts.append(f"{outcome.resumed} of them by the interrupted run")
    target = "standard output" if outcome.output == "-" else outcome.output
    parts.append(f"{human_size(outcome.nbytes)} to {target}")
    if not dry_run and outcome.seconds > 0:
        rate = human_size(outcome.nbytes / outcome.seconds)
        parts.append(f"{outcome.seconds:.2f} s, {rate}/s")
    return ", ".join(parts)
