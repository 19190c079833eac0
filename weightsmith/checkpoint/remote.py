"""A checkpoint on the Hub as a source: downloaded first, or read by byte ranges where it lies."""

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from weightsmith.checkpoint.hub import Address, download, is_offline, network_error, status_of, told
from weightsmith.checkpoint.index import check_index, find_index, read_index, weight_files
from weightsmith.checkpoint.readahead import CONNECTIONS, ReadAhead
from weightsmith.checkpoint.renamed import RenamedSource
from weightsmith.checkpoint.shard import Shard, check_size
from weightsmith.checkpoint.sidecar import CONFIG, Sidecars
from weightsmith.checkpoint.source import FileSource, Source, WeightFile, open_directory
from weightsmith.errors import InvalidFile, WeightsmithError
from weightsmith.header import TensorSpec, header_length, parse_header

# Most headers fit into this; of those that do not, the rest takes a second request.
_FIRST = 1 << 16
_TRIES = 5
_WAIT = 0.5  # seconds, doubled for each failure in a row
_TRANSIENT = (408, 429, 500, 502, 503, 504)
# As in `"api";r=0;t=55`: nothing is left of the limit, for so many seconds.
_LIMIT = re.compile(r"\br=0;\s*t=(\d+)")
_ALIGNMENT = 64
_EXPIRED = (401, 403, 404, 410)
# Kept ahead of a pass by commands that have no --memory, in bytes.
DEFAULT_AHEAD = 64 << 20


def open_hub(text: str, notice: Callable[[str], None], *, stream: bool) -> Source:
    """Open `hf://owner/name[@revision]`.

    Args:
        text: the address.
        notice: told when a download begins.
        stream: read headers now and byte ranges later, and download no weights. Offline there is
            only the cache, and it is read.

    Raises:
        UsageError: this is no such address.
        InvalidFile: what is there is not valid safetensors.
        WeightsmithError: it cannot be had.
    """
    address = Address.parse(text)
    if not stream or is_offline():
        return open_directory(download(address, notice), str(address))
    return _open_remote(address)


def read_ahead(source: Source, spans: Iterable[tuple[str, int, int]], memory: int) -> None:
    """Announce what will be read of a source: (tensor, start, nbytes), in about that order.

    Only a checkpoint that is read over the network makes use of it, and of that much memory.
    """
    if isinstance(source, RenamedSource):
        stored = source.stored
        read_ahead(
            source.source, ((stored(name), start, size) for name, start, size in spans), memory
        )
    elif isinstance(source, RemoteSource):
        source.expect(spans, memory)


def read_all_ahead(source: Source, tensors: Iterable[TensorSpec]) -> None:
    """Announce that these tensors will be read whole, one after the other."""
    read_ahead(source, ((spec.name, 0, spec.nbytes) for spec in tensors), DEFAULT_AHEAD)


def is_remote(source: Source) -> bool:
    """Whether a source is read over the network."""
    if isinstance(source, RenamedSource):
        return is_remote(source.source)
    return isinstance(source, RemoteSource)


class RemoteFile:
    """One safetensors file of a commit, read by byte ranges; threads may read at once.

    The name of the commit is part of every address that is asked, so a branch that moves meanwhile
    changes nothing. Where the Hub sends us elsewhere for the bytes, that place is asked directly
    until it refuses.

    Args:
        pinned: the repository and the commit.
        name: of the file.
        label: what messages call it.
    """

    def __init__(self, pinned: Address, name: str, label: str) -> None:
        from huggingface_hub import hf_hub_url

        self.name = name.rpartition("/")[2]
        self.label = label
        self._address = pinned
        self._url = hf_hub_url(pinned.repository, name, revision=pinned.revision)
        self._location = self._url
        self._size: int | None = None
        self._closed = threading.Event()
        start = self.fetch(0, _FIRST)
        length = header_length(bytes(start[:8]), label)
        text = bytes(start[8 : 8 + length])
        if 8 + length > len(start):
            text += bytes(self.fetch(len(start), 8 + length)) if len(start) == _FIRST else b""
        if len(text) < length:
            raise InvalidFile("header is cut short", file=label, expected=length, got=len(text))
        self.header = parse_header(text, label)
        self._data = 8 + length
        assert self._size is not None, "the first answer told it"
        check_size(self.header, self._data, self._size, label)

    def position(self, tensor: str, start: int) -> int:
        """Where a byte of a tensor is in the file."""
        return self._data + self.header.offsets[tensor] + start

    def read(self, tensor: str, start: int, nbytes: int, area: memoryview) -> memoryview:  # noqa: ARG002
        """Bytes of a tensor, by a request of their own."""
        begin = self.position(tensor, start)
        return self.fetch(begin, begin + nbytes) if nbytes else memoryview(b"")

    def fetch(self, begin: int, end: int) -> memoryview:
        """Bytes [begin, end) of the file, or to its end; what breaks off is taken up again.

        Raises:
            WeightsmithError: the Hub refuses, or the connection broke again and again.
        """
        end = min(end, self._size or end)
        # In memory the bytes are aligned as in the file.
        lead = begin % _ALIGNMENT
        data = memoryview(bytearray(lead + end - begin))[lead:]
        done, failures = 0, 0
        with told(self._address, file=self.label):
            while begin + done < end:
                before, problem = done, None
                try:
                    for chunk in self._chunks(begin + done, end):
                        data[done : done + len(chunk)] = chunk
                        done += len(chunk)
                except network_error() as error:
                    if status_of(error) not in (None, *_TRANSIENT):
                        raise
                    problem = error
                failures = 0 if done > before else failures + 1
                if failures == _TRIES:
                    raise problem or WeightsmithError("the server sends nothing", file=self.label)
                if problem is not None:
                    self._wait(_asked_for(problem) or _WAIT * 2.0**failures)
                end = min(end, self._size or end)
        return data[:done]

    def _wait(self, seconds: float) -> None:
        self._closed.wait(seconds)

    def _chunks(self, begin: int, end: int) -> Iterable[bytes]:
        """One request for a range; fewer bytes may come than were asked for."""
        from urllib.parse import urlsplit

        from huggingface_hub import constants
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            hf_raise_for_status,
            http_stream_backoff,
        )

        location = self._location
        self._check_open()
        # A token is for the Hub, not for where it keeps its files.
        ours = urlsplit(location)[:2] == urlsplit(self._url)[:2]
        headers = build_hf_headers(
            token=None if ours else False,
            library_name="weightsmith",
        )
        headers |= {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
        with http_stream_backoff(
            "GET",
            location,
            headers=headers,
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            # Whoever waits here must hear that the file is closed, so `fetch` itself tries again.
            retry_on_exceptions=(),
            retry_on_status_codes=(),
        ) as response:
            if response.status_code in _EXPIRED and location != self._url:
                self._location = self._url
                return
            hf_raise_for_status(response)
            stop = self._stop(response.status_code, response.headers, begin, end)
            self._location = str(response.url)
            for chunk in response.iter_bytes():
                self._check_open()
                part = chunk[: stop - begin]
                begin += len(part)
                yield part

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise WeightsmithError("reading was given up", file=self.label)

    def _stop(self, status: int, headers: object, begin: int, end: int) -> int:
        """Where the answer ends in the file, by its headers; also learns the size of the file."""
        given = str(headers["Content-Range"]) if status == 206 else ""  # type: ignore[index]
        span, _, total = given.removeprefix("bytes ").partition("/")
        first, _, last = span.partition("-")
        if not (first.isdecimal() and last.isdecimal() and total.isdecimal()):
            raise WeightsmithError(
                "the server does not serve byte ranges",
                file=self.label,
                expected="HTTP status 206 and a Content-Range",
                got=f"{status} {given}".strip(),
                remedy="without --stream the whole file is downloaded",
            )
        size = int(total)
        if int(first) != begin or int(last) >= end or size != (self._size or size):
            raise WeightsmithError(
                "the server sent another part of the file, or of another file",
                file=self.label,
                expected=f"bytes {begin}-{end - 1}/{self._size or '*'}",
                got=span + "/" + total,
            )
        self._size = size
        return int(last) + 1

    def identity(self) -> object:
        """Repository, commit and file: a commit never changes."""
        return [str(self._address), self.name, self._size]

    def close(self) -> None:
        """Let what is under way end soon."""
        self._closed.set()


def _asked_for(error: Exception) -> float | None:
    """The seconds that a server wants us to wait, if it says so."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    after = str(headers.get("Retry-After", ""))
    limit = _LIMIT.search(str(headers.get("RateLimit", "")))
    return float(after) if after.isdecimal() else float(limit[1]) if limit else None


class RemoteSource(FileSource):
    """A checkpoint on the Hub, read by byte ranges; files that are in the cache are read there."""

    def __init__(self, label: str, shards: Sequence[WeightFile], sidecars: Sidecars) -> None:
        super().__init__(label, shards, sidecars)
        self._remote = [shard for shard in shards if isinstance(shard, RemoteFile)]
        self._number = {
            spec.name: number
            for number, shard in enumerate(self._remote)
            for spec in shard.header.tensors
        }
        self._ahead: ReadAhead | None = None

    def expect(self, spans: Iterable[tuple[str, int, int]], memory: int) -> None:
        """Fetch these, (tensor, start, nbytes), ahead of the reads to come, within the memory."""
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = ReadAhead(
            (self._place(*span) for span in spans if span[0] in self._number and span[2]),
            lambda file, begin, end: self._remote[file].fetch(begin, end),
            memory,
        )

    def _place(self, tensor: str, start: int, nbytes: int) -> tuple[int, int, int]:
        number = self._number[tensor]
        begin = self._remote[number].position(tensor, start)
        return number, begin, begin + nbytes

    def read(self, tensor: str, start: int, nbytes: int, area: memoryview) -> memoryview:
        """See Source."""
        if self._ahead is None or tensor not in self._number:
            return super().read(tensor, start, nbytes, area)
        place = self._place(tensor, start, nbytes)
        parts = self._ahead.parts(*place)
        if parts is None:
            return super().read(tensor, start, nbytes, area)
        lead = done = place[1] % _ALIGNMENT
        for part in parts:
            if len(part) == nbytes:
                return part
            area[done : done + len(part)] = part
            done += len(part)
        return area[lead:done]

    def close(self) -> None:
        """See Source; what is under way ends first."""
        super().close()
        if self._ahead is not None:
            self._ahead.close()


def _open_remote(address: Address) -> Source:
    from huggingface_hub import hf_hub_download, model_info

    with told(address):
        info = model_info(address.repository, revision=address.revision)
        assert info.sha is not None, "the Hub names the commit"
        pinned = Address(address.repository, info.sha)
        names = [file.rfilename for file in info.siblings or () if "/" not in file.rfilename]

        def bring(name: str) -> Path:
            with told(address):
                return Path(
                    hf_hub_download(
                        address.repository,
                        name,
                        revision=info.sha,
                        library_name="weightsmith",
                    )
                )

        index = find_index(names, address)
        weight_map = read_index(bring(index), f"{address}/{index}") if index else None
        files = sorted(set(weight_map.values())) if weight_map else weight_files(names, address)
        sidecars = _sidecars(names, bring)
    source = RemoteSource(str(address), _open_files(address, pinned, files), sidecars)
    if weight_map is not None:
        check_index(weight_map, source.shard_of, f"{address}/{index}")
    return source


def _sidecars(names: Sequence[str], bring: Callable[[str], Path]) -> Sidecars:
    found = Sidecars.remote(Path(), names, bring)
    if not found.names:
        return found
    # Where the cache has this commit is learnt from the one file that is always looked into.
    directory = bring(CONFIG if CONFIG in found.names else found.names[0]).parent
    return Sidecars.remote(directory, names, bring)


def _open_files(address: Address, pinned: Address, names: Sequence[str]) -> list[WeightFile]:
    """All files of the weights at once: each header is a round trip or two."""
    from concurrent.futures import ThreadPoolExecutor

    from huggingface_hub import try_to_load_from_cache

    def open_one(name: str) -> WeightFile:
        label = f"{address}/{name}"
        cached = try_to_load_from_cache(pinned.repository, name, revision=pinned.revision)
        return (
            Shard(Path(cached), label)
            if isinstance(cached, str)
            else RemoteFile(pinned, name, label)
        )

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return list(pool.map(open_one, names))
