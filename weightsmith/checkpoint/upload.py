"""A checkpoint written to the Hub: file by file as it is made, and published by one commit.

Until that commit nothing shows in the repository. Of the output, only the files that are being
made or wait for their turn are on the disk.
"""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from weightsmith.checkpoint.hub import Address, told
from weightsmith.checkpoint.layout import INDEX, Layout
from weightsmith.checkpoint.shard import PAGE
from weightsmith.checkpoint.workspace import write_errors
from weightsmith.errors import UsageError, WeightsmithError
from weightsmith.header import Header

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

# Complete files that may wait while one is being sent; then the making of the next one waits.
_WAITING = 1


class Repository:
    """What is known of the repository before anything is written to it.

    Attributes:
        head: the commit that ours will follow; None where there is no repository yet.
        contents: its files, but hidden ones.
    """

    def __init__(self, address: Address, *, force: bool) -> None:
        """Look, and refuse what would be replaced.

        Raises:
            UsageError: there is something, and no `force`, or something that is no checkpoint.
            WeightsmithError: no such branch, or the Hub cannot be reached.
        """
        from huggingface_hub import errors, model_info

        self.address = address
        self.head: str | None = None
        self.contents: list[str] = []
        with told(address):
            try:
                info = model_info(address.repository, revision=address.revision)
            except errors.GatedRepoError:
                raise
            except errors.RepositoryNotFoundError:
                if address.revision is not None:
                    raise
                return
        if info.sha == address.revision:
            raise UsageError("a commit cannot be written to", file=address, expected="a branch")
        self.head = info.sha
        names = [file.rfilename for file in info.siblings or ()]
        # .gitattributes and the like are the repository's, not the checkpoint's.
        self.contents = [name for name in names if not name.startswith(".")]
        self._refuse(force=force)

    def _refuse(self, *, force: bool) -> None:
        if not self.contents:
            return
        if not force:
            raise UsageError(
                "the target exists", file=self.address, remedy="--force replaces what is in it"
            )
        if not any(name.endswith(".safetensors") for name in self.contents):
            # --force means "replace that checkpoint", never "delete whatever is there".
            raise UsageError(
                "the target is a repository without safetensors files, so it is not replaced",
                file=self.address,
            )

    def prepare(self) -> None:
        """Make the repository, private, if there is none."""
        from huggingface_hub import create_repo, model_info

        if self.head is not None:
            return
        with told(self.address):
            create_repo(self.address.repository, private=True, exist_ok=True)
            self.head = model_info(self.address.repository).sha


class HubSink:
    """A repository of the Hub as a sink.

    Args:
        repository: looked at, and free.
        furnish: called with an empty directory to put sidecars and the model card there.
        message: of the commit.

    Attributes:
        commit: where the Hub shows it, once it is made.
    """

    ordered = False
    commit = ""

    def __init__(
        self, repository: Repository, furnish: Callable[[Path], None], message: str
    ) -> None:
        self.label = str(repository.address)
        self._repository = repository
        self._furnish = furnish
        self._message = message
        self._work = tempfile.TemporaryDirectory(
            prefix="weightsmith-upload-", ignore_cleanup_errors=True
        )
        self._layout = Layout(())
        self._of: dict[str, _File] = {}
        self._operations: list[CommitOperationAdd] = []
        self._queue: SimpleQueue[_File | None] = SimpleQueue()
        self._changed = threading.Condition()
        self._unsent = 0
        self._failure: BaseException | None = None
        self._sender = threading.Thread(
            target=self._send_all, name="weightsmith-upload", daemon=True
        )

    def open(self, layout: Layout) -> None:
        """Make the repository if there is none, and get ready to send."""
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

        # Ours counts what is written, and several would write over each other.
        disable_progress_bars()
        self._check_space(layout)
        self._repository.prepare()
        self._layout = layout
        for name, header in layout.files:
            self._of |= dict.fromkeys(header.by_name, _File(Path(self._work.name, name), header))
        self._sender.start()

    def _check_space(self, layout: Layout) -> None:
        sizes = sorted((header.nbytes for _, header in layout.files), reverse=True)
        wanted = sum(sizes[: _WAITING + 2])
        free = shutil.disk_usage(self._work.name).free
        if free < wanted:
            raise WeightsmithError(
                "not enough free space for the files on their way",
                file=self._work.name,
                expected=f"{wanted:,} bytes",
                got=f"{free:,}",
                remedy="--shard-size makes them smaller, TMPDIR names another place",
            )

    def lead(self, tensor: str, start: int) -> int:
        """See Sink."""
        return self._of[tensor].place(tensor, start) % PAGE

    def write(self, tensor: str, start: int, data: memoryview) -> None:
        """See Sink; a file is begun only when few are left to send."""
        file = self._of[tensor]
        with file.lock, write_errors(self.label):
            if file.fd is None:
                self._wait()
                file.begin()
            file.write(tensor, start, data)
            complete = not file.left
        if complete:
            self._enqueue(file)

    def _wait(self) -> None:
        # Only complete files are waited for, never those that grow: in whatever order the tensors
        # come, what is complete gets sent and makes room.
        with self._changed:
            self._changed.wait_for(lambda: self._failure or self._unsent <= _WAITING)
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _enqueue(self, file: "_File") -> None:
        file.close()
        with self._changed:
            self._unsent += 1
        self._queue.put(file)

    def _send_all(self) -> None:
        try:
            while (file := self._queue.get()) is not None:
                self._send(file.path)
                with self._changed:
                    self._unsent -= 1
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - raised where files are written
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _send(self, path: Path) -> None:
        from huggingface_hub import CommitOperationAdd, preupload_lfs_files

        address = self._repository.address
        with told(address, uploading=True):
            added = CommitOperationAdd(path.name, path)
            preupload_lfs_files(address.repository, [added], revision=address.revision)
        self._operations.append(added)
        if added.path_or_fileobj == b"":
            # It has been sent; the Hub takes small ones only with the commit.
            path.unlink()

    def publish(self) -> None:
        """Send what is left, then make the one commit that shows it all.

        Raises:
            WeightsmithError: the Hub refused, or the branch has moved since we looked.
        """
        for file in {id(file): file for file in self._of.values() if file.fd is None}.values():
            with write_errors(self.label):
                file.begin()  # it has no bytes but its header
            self._enqueue(file)
        self._queue.put(None)
        self._sender.join()
        self._check()
        tree = Path(self._work.name, "tree")
        with write_errors(self.label):
            tree.mkdir()
            if self._layout.index is not None:
                (tree / INDEX).write_text(self._layout.index, encoding="utf-8")
            self._furnish(tree)
        self._commit(sorted(tree.iterdir()))
        self._work.cleanup()

    def _commit(self, beside: Sequence[Path]) -> None:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, create_commit, errors

        address = self._repository.address
        added = [*self._operations, *(CommitOperationAdd(path.name, path) for path in beside)]
        names = {each.path_in_repo for each in added}
        stale = [name for name in self._repository.contents if name not in names]
        with told(address, uploading=True):
            try:
                made = create_commit(
                    address.repository,
                    [*added, *map(CommitOperationDelete, stale)],
                    commit_message=self._message,
                    revision=address.revision,
                    parent_commit=self._repository.head,
                )
            except errors.HfHubHTTPError as error:
                if error.response.status_code != 412:
                    raise
                raise WeightsmithError(
                    "the branch has moved meanwhile, so nothing was published",
                    file=address,
                    remedy="run it again; what was sent is not sent twice",
                ) from None
        self.commit = made.commit_url

    def discard(self) -> None:
        """See Sink: without a commit, what has been sent shows nowhere."""
        self._queue.put(None)
        for file in self._of.values():
            file.close()
        self._work.cleanup()


class _File:
    """A file of the output while it grows."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.left = header.nbytes
        self.lock = threading.Lock()
        self.fd: int | None = None
        self._head = header.encode()
        self._offsets = header.offsets

    def place(self, tensor: str, start: int) -> int:
        return len(self._head) + self._offsets[tensor] + start

    def begin(self) -> None:
        self.fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.pwrite(self.fd, self._head, 0)

    def write(self, tensor: str, start: int, data: memoryview) -> None:
        assert self.fd is not None, "it has begun"
        offset = self.place(tensor, start)
        self.left -= len(data)
        while data:
            written = os.pwrite(self.fd, data, offset)
            data, offset = data[written:], offset + written

    def close(self) -> None:
        if self.fd is not None and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
