"""The machine tier: one LMDB file that all workers read and write, and that outlives them.

Rule 1: it is opened after the fork, once per process. `find` is for the event loop: readers wait for nobody.
`put` is for a thread of its own: it waits for other workers' transactions, and for the disk.
Rule 2: nothing is synced, so a process may die at any moment without harm, but the machine may not:
`machine.home` throws the file away when the machine stopped without a word.
Rule 3: whatever fails here costs a hit, never an answer. It is counted by kind, and the tier is left alone
for a while; a damaged file is left alone for good.

LMDB does not write through its map: what a full disk refuses is an error then, and not a signal that
ends the process.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

import lmdb

from edgeproxy.cache.codec import Opener
from edgeproxy.cache.entry import Entry
from edgeproxy.cache.machine_objects import DROPPED, Objects
from edgeproxy.cache.machine_rows import FORMAT, PAGE, bytes_of_file
from edgeproxy.http.message import Headers

READERS = 1024  # processes at once, and those that died without a word
SLOW = 0.25  # seconds; a look-up that takes so long kept everybody waiting
PAUSES = (1.0, 2.0, 5.0, 15.0, 60.0)  # seconds the tier is left alone after the n-th failure in a row
SPARE = 2**20  # bytes; pages that were dropped before they were ever written may be missing at the end
KINDS = ("disk", "full", "slow", "damaged")
_UNUSABLE: tuple[type[Exception], ...] = (
    lmdb.CorruptedError, lmdb.PanicError, lmdb.PageNotFoundError, lmdb.InvalidError,
    lmdb.VersionMismatchError, lmdb.IncompatibleError, lmdb.BadDbiError, lmdb.BadTxnError, struct.error,
)  # fmt: skip
_FAILURES: tuple[type[Exception], ...] = (lmdb.Error, OSError, ValueError)

Clock = Callable[[], float]


class DamagedError(Exception):
    """The file is not one of ours, or not whole."""


class MachineStore:
    """The tier as one process sees it. `size` is what the file may have; `object_size` bounds one entry.

    `asked` is memory that all processes share, HAND + ASKED bytes. `failed` is told the kind and the
    reason of a failure when the tier is left alone for it. Raises DamagedError or OSError when the
    file cannot be opened; after that nothing is raised any more.
    """

    def __init__(
        self,
        path: str,
        era: bytes,
        size: int,
        object_size: int,
        asked: memoryview,
        clock: Clock,
        ahead: float,
        failed: Callable[[str, str], None],
        opener: Opener | None = None,
    ) -> None:
        """`era` names the purges that the entries know of: a file of another era is not used. `ahead` is by
        how many seconds the clock of the file is ahead of `clock`. `opener` finds bodies that lie in files of
        their own."""
        self.object_size = object_size
        self.failures: dict[str, int] = dict.fromkeys(KINDS, 0)
        self.damaged = False
        self._clock, self._ahead, self._failed = clock, ahead, failed
        self._paused_until = 0.0
        self._in_a_row = 0
        self._length = 0
        _look_at(path)
        try:
            self._env: Any = lmdb.open(
                path, subdir=False, map_size=size, max_dbs=3, max_readers=READERS, mode=0o600,
                sync=False, metasync=False, meminit=False, readahead=False,
            )  # fmt: skip
        except _UNUSABLE as error:
            raise DamagedError(f"{type(error).__name__}: {error}") from error
        except lmdb.Error as error:
            raise OSError(str(error)) from error
        try:
            trees = self._env.open_db(b"objects"), self._env.open_db(b"index")
            self._claim(FORMAT + b" " + era, trees[0])
            self._objects = Objects(*trees, size, int(self._env.stat()["psize"]), asked, opener)
            self._env.reader_check()
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except Exception as error:
            self._env.close()
            if isinstance(error, _UNUSABLE):
                raise DamagedError(f"{type(error).__name__}: {error}") from error
            if isinstance(error, lmdb.Error):
                raise OSError(str(error)) from error
            raise

    @property
    def paused(self) -> bool:
        """Whether it is left alone because of a failure."""
        return self.damaged or (self._paused_until > 0 and self._clock() < self._paused_until)

    def find(self, key: bytes, headers: Headers) -> tuple[Entry | None, bool]:
        """(the entry for these request fields, whether other variants are there)."""
        if self._paused_until and self.paused:
            return None, False
        began = self._clock()
        try:
            with self._reading() as txn:
                found = self._objects.find(txn, key, headers, self._ahead)
        except _UNUSABLE as error:
            self._fail("damaged", error)
        except _FAILURES as error:
            self._fail("disk", error)
        else:
            if self._clock() - began > SLOW:
                self._fail("slow", f"a look-up took more than {SLOW * 1000:.0f} ms")
            return found
        return None, False

    def put(self, entries: Iterable[Entry]) -> int:
        """Store each in place of the same variant, all in one transaction. How many were."""
        if self.paused:
            return 0
        small = [entry for entry in entries if entry.size <= self.object_size]
        with self._guarded():
            self._check_length()
            try:
                return self._put_all(small)
            except lmdb.MapFullError:
                self._make_room()  # it can be used when that was committed
            return self._put_all(small)
        return 0

    @property
    def evictions(self) -> int:
        """Objects dropped to make room."""
        return self._objects.evictions

    @property
    def keys(self) -> int:
        """Keys under which something is stored; 0 when that cannot be said."""
        if not self.paused:
            with self._guarded(), self._reading() as txn:
                return self._objects.keys(txn)
        return 0

    @property
    def bytes(self) -> int:
        """Bytes of the file that are in use; the bound is on these."""
        if not self.paused:
            with self._guarded(), self._reading() as txn:
                return self._objects.used(txn) * self._objects.page
        return 0

    def close(self) -> None:
        """Let go of the file."""
        self.damaged = True
        self._paused_until = 1.0
        self._env.close()
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    # --- inside a transaction

    def _claim(self, name: bytes, objects: Any) -> None:
        """See whose file it is; a file of nobody is ours from now on."""
        about = self._env.open_db(b"about")
        with self._env.begin(write=True) as txn:
            found = txn.get(b"file", db=about)
            if found is None and not txn.stat(objects)["entries"]:
                txn.put(b"file", name, db=about)
            elif found != name:
                raise DamagedError(f"it says that it is {found!r}")

    def _put_all(self, entries: list[Entry]) -> int:
        objects, stored = self._objects, 0
        evicted = objects.evictions
        try:
            with self._env.begin(write=True, buffers=True) as txn:
                for entry in entries:
                    stored += objects.put(txn, entry, self._ahead)
        except lmdb.Error:
            objects.evictions = evicted  # none of it happened
            raise
        self._in_a_row = 0
        return stored

    def _make_room(self) -> None:
        self._env.reader_check()  # a reader that died holds on to old pages
        with self._env.begin(write=True, buffers=True) as txn:
            self._objects.evict(txn, 0, at_least=DROPPED // 4)

    # --- when something is wrong

    def _reading(self) -> Any:
        self._check_length()
        return self._env.begin(buffers=True)

    def _check_length(self) -> None:
        """LMDB never makes its file shorter; who reads pages that somebody cut off is ended by a signal."""
        length = os.fstat(self._file).st_size
        if length < self._length:
            raise lmdb.CorruptedError(f"somebody made it shorter: {length} bytes")
        self._length = length

    @contextmanager
    def _guarded(self) -> Generator[None]:
        try:
            yield
        except _UNUSABLE as error:
            self._fail("damaged", error)
        except lmdb.MapFullError as error:
            self._fail("full", error)
        except _FAILURES as error:
            self._fail("disk", error)

    def _fail(self, kind: str, why: object) -> None:
        if self.damaged:
            return  # it was closed, or is known to be
        self.failures[kind] += 1
        # a file that stays full is of no use either: somebody that does not die holds on to its pages
        self.damaged = kind == "damaged" or (kind == "full" and self._in_a_row >= len(PAUSES))
        self._paused_until = self._clock() + PAUSES[min(self._in_a_row, len(PAUSES) - 1)]
        self._in_a_row += 1
        self._failed(kind, f"{type(why).__name__}: {why}" if isinstance(why, Exception) else str(why))


def _look_at(path: str) -> None:
    """Raise DamagedError for what LMDB would trip over: a file of something else, or one cut short, whose
    missing pages would end the process with a signal."""
    if not os.path.exists(path) or not (size := os.path.getsize(path)):
        return  # it will be made
    with open(path, "rb") as file:
        found = bytes_of_file(file.read(2 * PAGE))
    if found is None:
        raise DamagedError("it is not an LMDB file")
    if size < found[1] * 15 // 16 - SPARE:
        raise DamagedError(f"it has {size} bytes and says {found[1]}")
