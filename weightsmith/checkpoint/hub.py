"""The Hugging Face Hub: its addresses, downloads through its cache, and its errors in words."""

import glob
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from weightsmith.checkpoint.index import SINGLE, find_index, read_index, weight_files
from weightsmith.checkpoint.sidecar import WEIGHTS
from weightsmith.errors import UsageError, WeightsmithError, printable

PREFIX = "hf://"
# The oldest with which the tests pass; those before 1.0 lack what --stream is made of.
_OLDEST_CLIENT = (1, 31)
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([^\s@]+))?")
# What a download leaves out until it is known which files are the weights. fnmatch's patterns.
_NO_SIDECARS = ["*/*", ".*", "[Rr][Ee][Aa][Dd][Mm][Ee].[Mm][Dd]", *(f"*{end}" for end in WEIGHTS)]


@dataclass(frozen=True)
class Address:
    """A model repository, and the branch, tag or commit meant; None for the main branch."""

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read `hf://owner/name[@revision]`.

        Raises:
            UsageError: it is something else.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None:
            raise UsageError(
                "not a hub address",
                expected="hf://owner/name or hf://owner/name@revision",
                got=printable(text),
            )
        _require_client()
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            HFValidationError,
            validate_repo_id,
        )

        try:
            validate_repo_id(match[1])
        except HFValidationError as error:
            raise UsageError("not a hub address", file=text, got=str(error)) from None
        return cls(match[1], match[2])

    def __str__(self) -> str:
        return PREFIX + self.repository + (f"@{self.revision}" if self.revision else "")

    @property
    def page(self) -> str:
        """Where people find the repository."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{self.repository}"


def is_hub(address: str) -> bool:
    """Whether an argument names a repository of the Hub."""
    return address.startswith(PREFIX)


def _require_client() -> None:
    """Raise UsageError where the client is older than what it is used for here."""
    import huggingface_hub

    version = huggingface_hub.__version__
    if tuple(map(int, version.split(".")[:2])) < _OLDEST_CLIENT:
        # Older ones are allowed to be there, for transformers 4 wants them.
        raise UsageError(
            "hub addresses need a newer huggingface_hub",
            expected=f"{_OLDEST_CLIENT[0]}.{_OLDEST_CLIENT[1]} or later",
            got=version,
            remedy="python -m pip install -U huggingface_hub",
        )


def is_offline() -> bool:
    """Whether the user has forbidden the network (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def located(address: str, notice: Callable[[str], None] = lambda _: None) -> str:
    """The directory of a checkpoint: downloaded if it is a hub address, else as given."""
    if not is_hub(address):
        return address
    return str(download(Address.parse(address), notice))


def download(address: Address, notice: Callable[[str], None] = lambda _: None) -> Path:
    """Bring a checkpoint into the Hub's cache, or find it there; only what belongs to it.

    The branch is resolved once, by the first request: all files are of one commit.

    Returns:
        The directory of that commit in the cache.

    Raises:
        WeightsmithError: it cannot be had; offline, it is not all in the cache.
    """
    with told(address):
        snapshot = _snapshot(address, ignore=_NO_SIDECARS)
        pinned = Address(address.repository, snapshot.name)
        names = _weights_named_by_index(snapshot, address) or [SINGLE]
        if not _all_there(snapshot, names):
            notice(f"downloading {address}")
            # Names are matched as patterns.
            _snapshot(pinned, allow=[glob.escape(name) for name in names])
        if names == [SINGLE] and not _all_there(snapshot, names):
            _snapshot(pinned, allow=["*.safetensors"], ignore=["*/*"])
            present = [path.name for path in snapshot.iterdir()]
            if not any(name.endswith(".safetensors") for name in present) and not is_offline():
                from huggingface_hub import list_repo_files

                present = list_repo_files(address.repository, revision=pinned.revision)
            names = weight_files(present, address)
    if missing := [name for name in names if not (snapshot / name).exists()]:
        raise WeightsmithError(
            "not all of the checkpoint is in the cache",
            file=f"{address}/{missing[0]}",
            remedy="unset HF_HUB_OFFLINE to download the rest" if is_offline() else None,
        )
    return snapshot


def download_sidecars(address: Address) -> Path:
    """Bring all but the weights into the Hub's cache; the directory as of `download`."""
    with told(address):
        return _snapshot(address, ignore=_NO_SIDECARS)


def _snapshot(
    address: Address, allow: Sequence[str] | None = None, ignore: Sequence[str] = ()
) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            address.repository,
            revision=address.revision,
            allow_patterns=None if allow is None else list(allow),
            ignore_patterns=list(ignore) or None,
            library_name="weightsmith",
        )
    )


def _weights_named_by_index(snapshot: Path, address: Address) -> list[str]:
    index = find_index((path.name for path in snapshot.iterdir()), address)
    if index is None:
        return []
    return sorted(set(read_index(snapshot / index, f"{address}/{index}").values()))


def _all_there(snapshot: Path, names: Sequence[str]) -> bool:
    return all((snapshot / name).exists() for name in names)


@contextmanager
def told(address: Address, *, file: str | None = None, uploading: bool = False) -> Iterator[None]:
    """Turn what the Hub's client raises into our errors, and keep it from talking itself."""
    from huggingface_hub import errors

    _hush()
    try:
        yield
    except (
        network_error(),
        OSError,
        errors.EntryNotFoundError,
        errors.XetDownloadError,
    ) as error:
        raise in_words(error, address, file) from None
    except (RuntimeError, ValueError) as error:
        # Uploads wrap what went wrong, or complain of what the server said.
        if not uploading:
            raise
        raise in_words(error, address, file) from None


def _hush() -> None:
    """Let the client show bars only where ours would be shown, and log only if it was asked to."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        logging,
    )

    piped = stat.S_ISFIFO(os.fstat(1).st_mode)
    if not are_progress_bars_disabled() and (piped or not sys.stderr.isatty()):
        disable_progress_bars()
    if not {"HF_DEBUG", "HF_HUB_VERBOSITY"} & os.environ.keys():
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def network_error() -> type[Exception]:
    """The common base of what the client's HTTP library raises, whichever library that is."""
    from huggingface_hub.errors import HfHubHTTPError

    return cast("type[Exception]", HfHubHTTPError.__bases__[0])


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an exception is about, if it is about one."""
    return getattr(getattr(error, "response", None), "status_code", None)


def in_words(error: BaseException, address: Address, file: str | None = None) -> WeightsmithError:
    """What an exception of the Hub's client means, and what can be done about it."""
    from huggingface_hub import errors, get_token

    status = status_of(error)

    def say(what: str, remedy: str | None = None) -> WeightsmithError:
        return WeightsmithError(what, file=file or address, remedy=remedy)

    log_in = "set HF_TOKEN, or log in with `hf auth login`"
    known = get_token() is not None
    if isinstance(error, errors.GatedRepoError):
        then = "the token in use is of an account that has not" if known else f"then {log_in}"
        return say("the repository is gated", f"accept its conditions on {address.page}; {then}")
    if isinstance(error, errors.RepositoryNotFoundError):
        private = "the token in use does not open it" if known else log_in
        return say(
            "no such repository, or a private one", f"check the name; if it is private: {private}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return say(
            f"the repository has no revision {address.revision}",
            f"its branches, tags and commits are on {address.page}",
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return say("the repository has no such file")
    if isinstance(error, errors.DisabledRepoError):
        return say("the Hub has disabled access to the repository")
    if is_offline():
        return say(
            "not in the cache, and HF_HUB_OFFLINE forbids the network",
            "unset HF_HUB_OFFLINE to download it",
        )
    wrapped = isinstance(error, errors.LocalEntryNotFoundError | RuntimeError)
    if wrapped and error.__cause__ is not None:
        return in_words(error.__cause__, address, file)
    if status == 401:
        return say("the Hub does not accept the token", f"{log_in} anew")
    if status == 403:
        return say("the token does not allow this", "give it the right to read, or here to write")
    if status == 429:
        return say("too many requests", "wait some minutes; limits are higher after logging in")
    if status is not None:
        return say(f"the Hub answered with HTTP status {status}", "try again later")
    if isinstance(error, OSError) and error.strerror:
        return say(f"{error.strerror}{f' ({error.filename})' if error.filename else ''}")
    if isinstance(error, (network_error(), OSError)):
        return say(f"the Hub cannot be reached: {error}", "check the connection and HF_ENDPOINT")
    return say(f"the Hub's client gave up: {error}")
