"""The files beside the weights: config, tokenizer, chat template, custom code.

They are copied byte for byte; only config.json may be patched (RFC 7396), and only where an
operator says so. What a directory holds is trusted because the user named the directory; what a
single file's folder holds, or a stream's metadata points to, is limited to known names.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from weightsmith.errors import InvalidFile

CONFIG = "config.json"
KNOWN_NAMES = frozenset(
    {
        CONFIG,
        "generation_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "spiece.model",
        "sentencepiece.bpe.model",
        "chat_template.jinja",
        "chat_template.json",
        "preprocessor_config.json",
        "processor_config.json",
        "video_preprocessor_config.json",
    }
)
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")


def _is_there(_: str) -> None:
    """Nothing has to be brought; a function with a name, for sidecars travel with their source."""


@dataclass(frozen=True)
class Sidecars:
    """The sidecar files of one checkpoint.

    Attributes:
        directory: where they are.
        names: which of its files belong to the checkpoint, sorted.
        implied: whether nobody named the directory: it is where a single file happened to lie.
        fetch: brings one of them into the directory, where they are not there from the start.
    """

    directory: Path
    names: tuple[str, ...]
    implied: bool = False
    fetch: Callable[[str], object] = field(default=_is_there, compare=False)

    @classmethod
    def of_directory(cls, directory: Path) -> "Sidecars":
        """The plain files of a directory, but weights, indexes, README and hidden ones."""
        return cls(directory, _files(directory, _belongs))

    @classmethod
    def remote(
        cls, directory: Path, names: Iterable[str], fetch: Callable[[str], object]
    ) -> "Sidecars":
        """Those among the names of a repository's files, as of a directory, fetched when read."""
        return cls(directory, tuple(sorted(filter(_belongs, names))), fetch=fetch)

    @classmethod
    def beside(cls, file: Path) -> "Sidecars | None":
        """Known names in the folder of a single weights file, if a config.json is among them."""
        found = cls.known(file.parent, allow_code=False)
        return replace(found, implied=True) if found else None

    @classmethod
    def known(cls, directory: Path, *, allow_code: bool) -> "Sidecars | None":
        """Known names only, `*.py` only if allowed; None without a config.json."""
        if not (directory / CONFIG).is_file():
            return None
        return cls(
            directory,
            _files(directory, lambda n: n in KNOWN_NAMES or (allow_code and n.endswith(".py"))),
        )

    def path(self, name: str) -> Path:
        """Where one of them can be read."""
        self.fetch(name)
        return self.directory / name

    def settled(self) -> Path:
        """The directory, with all of them in it, for whoever reads them without us."""
        for name in self.names:
            self.fetch(name)
        return self.directory.resolve()

    def config(self) -> Mapping[str, object] | None:
        """The parsed config.json, or None."""
        return self.json(CONFIG)

    def json(self, name: str) -> dict[str, object] | None:
        """One sidecar parsed as a JSON object, or None if it is not there."""
        if name not in self.names:
            return None
        path = self.path(name)
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            raise InvalidFile("not valid JSON", file=path) from None
        if not isinstance(content, dict):
            raise InvalidFile("not a JSON object", file=path)
        return content

    def copy(self, target: Path, patch: Mapping[str, object]) -> None:
        """Copy all files into `target`; config.json is rewritten only if there is a patch."""
        for name in self.names:
            (target / name).write_bytes(self.path(name).read_bytes())
        config = self.config()
        if config is not None and (patched := apply_patch(config, patch)) != config:
            text = json.dumps(patched, indent=2, ensure_ascii=False)
            (target / CONFIG).write_text(text + "\n", encoding="utf-8")


def apply_patch(config: Mapping[str, object], patch: Mapping[str, object]) -> dict[str, object]:
    """JSON merge patch (RFC 7396): None removes a key, objects merge, all else replaces.

    `dtype` goes to `torch_dtype` where a config still spells it so. What a multimodal config keeps
    in its text_config alone is changed there.
    """
    result = dict(config)
    text = config.get("text_config")
    inside = text if isinstance(text, Mapping) else {}
    old_spelling = "torch_dtype" in config and "dtype" not in config
    for name, value in patch.items():
        key = "torch_dtype" if name == "dtype" and old_spelling else name
        if key in inside:
            inside = apply_patch(inside, {key: value})
            result["text_config"] = inside
            if key not in config:
                continue
        present = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            result[key] = apply_patch(present if isinstance(present, Mapping) else {}, value)
        else:
            result[key] = value
    return result


def _belongs(name: str) -> bool:
    weights = name.endswith((*WEIGHTS, ".index.json"))
    return not (weights or name.startswith(".") or name.lower() == "readme.md")


def _files(directory: Path, wanted: Callable[[str], bool]) -> tuple[str, ...]:
    return tuple(sorted(p.name for p in directory.iterdir() if wanted(p.name) and p.is_file()))
