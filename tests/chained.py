"""Commands in one process: joined by named pipes, and as a chain."""

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from support import random_tensors, write_directory

from weightsmith.engine.chain import Step
from weightsmith.engine.execute import execute, execute_chain
from weightsmith.engine.outcome import Outcome
from weightsmith.engine.settings import Settings
from weightsmith.errors import WeightsmithError
from weightsmith.operators.registry import operators
from weightsmith.selection import Selection

CONFIG = {
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_LAYER = {
    "self_attn.q_proj": (32, 32),
    "self_attn.k_proj": (16, 32),
    "self_attn.v_proj": (16, 32),
    "self_attn.o_proj": (32, 32),
    "mlp.gate_proj": (48, 32),
    "mlp.up_proj": (48, 32),
    "mlp.down_proj": (32, 48),
    "input_layernorm": (32,),
    "post_attention_layernorm": (32,),
}
SHAPES = {
    "model.embed_tokens.weight": (96, 32),
    **{f"model.layers.{i}.{n}.weight": s for i in range(2) for n, s in _LAYER.items()},
    "model.norm.weight": (32,),
}
HEAD = {"lm_head.weight": (96, 32)}

Command = tuple[str, list[str], dict[str, Any]]
_SETTINGS = {"output", "dtype", "jobs", "memory", "resume", "force", "cache", "sidecars"}


def write_models(root: Path, *, tied: bool = False) -> None:
    """Directories base, tuned, instruct and other, of a family that rotate knows."""
    for seed, name in enumerate(("base", "tuned", "instruct", "other")):
        tensors = random_tensors(seed, SHAPES if tied else SHAPES | HEAD)
        write_directory(root / name, tensors, config=CONFIG | {"tie_word_embeddings": tied})


def step(command: Command, **settings: Any) -> Step:
    name, inputs, options = command
    shared = {key: value for key, value in options.items() if key in _SETTINGS}
    chosen = Selection(tuple(options.get("select", ())), tuple(options.get("exclude", ())))
    own = {k: v for k, v in options.items() if k not in {*_SETTINGS, "select", "exclude"}}
    given = Settings(selection=chosen, **shared)
    return Step(operators()[name](**own), inputs, replace(given, **settings))


def chain(commands: Sequence[Command], target: str = "chain", **settings: Any) -> Outcome:
    """Run them as a chain."""
    *first, last = commands
    steps = [*(step(each) for each in first), step(last, output=target, **settings)]
    return execute_chain(steps)


def piped(commands: Sequence[Command], target: str = "pipe") -> Path:
    """Run each in a thread of its own, `-` being a named pipe from the one before."""
    *first, last = commands
    with contextlib.ExitStack() as stack:
        upstream = "-"
        for each in first:
            upstream = stack.enter_context(running(_reading(each, upstream)))
        given = step(_reading(last, upstream), output=target)
        execute(given.operator, given.addresses, given.settings)
    return Path(target)


def _reading(command: Command, upstream: str) -> Command:
    name, inputs, options = command
    return name, [upstream if each == "-" else each for each in inputs], options


@contextlib.contextmanager
def running(command: Command) -> Iterator[str]:
    """A named pipe that a command writes to meanwhile."""
    fifo = f"fifo-{len(list(Path().glob('fifo-*')))}"
    os.mkfifo(fifo)
    failures: list[BaseException] = []

    def run() -> None:
        given = step(command, output=fifo)
        try:
            execute(given.operator, given.addresses, given.settings)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            failures.append(error)
            os.close(os.open(fifo, os.O_WRONLY))  # nobody must wait for a writer for ever

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield fifo
    finally:
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)  # nor for a reader
        thread.join()
        os.close(reader)
        Path(fifo).unlink()
    if failures:
        raise failures[0]


def outcome_of(run: Any, *arguments: Any) -> str:
    """ "done", or the kind of error it ended with."""
    try:
        run(*arguments)
    except WeightsmithError as error:
        return type(error).__name__
    return "done"


def assert_same(one: str, other: str) -> None:
    """Two directories have the same files with the same bytes."""
    files = [{p.name: p.read_bytes() for p in Path(name).iterdir()} for name in (one, other)]
    assert files[0].keys() == files[1].keys()
    for name in files[0]:
        assert files[0][name] == files[1][name], name
