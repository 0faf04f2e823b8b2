"""The folder of the machine tier: whose it is, whether what lies in it may be used, and what is done if not.

    lock       held by the running edge: a second one on the same folder goes without the tier
    state      format, era, the boot of the machine that wrote, and how its clock stood to the time since;
               `synced` when all of it is on the disk
    objects.N  the LMDB file; N grows each time it is made anew
    purges.N   the purges that its entries must be compared with

Rule 1: no process but the supervisor (or the only worker there is) makes or removes files here; others
open what the shared cells name, and say there what is wrong with it.
Rule 2: the clock of the entries is not set while the machine runs, whatever happens to the wall clock.
Rule 3: what is not certain is thrown away. A cache may be lost; an answer that was purged must not return.
"""

from __future__ import annotations

import logging
import mmap
import os
import secrets
import struct
import time
from contextlib import suppress
from math import isfinite
from pathlib import Path

from edgeproxy.cache.clocks import PurgeClocks
from edgeproxy.cache.machine_objects import ASKED, HAND
from edgeproxy.cache.purge import catch_up
from edgeproxy.clock import OFFSET
from edgeproxy.machine import purge_journal
from edgeproxy.machine.purge_journal import LARGE, PurgeJournal
from edgeproxy.machine.state import boot, read_state, sync, write_state
from edgeproxy.process_lock import PATIENCE, take
from edgeproxy.purge_log import Purge, PurgeLog
from edgeproxy.shared_memory import Segment

logger = logging.getLogger("edgeproxy.machine")

FORMAT = 1
REST = 5.0  # seconds until what failed is tried again
# of making the file anew
_SENTENCES = {
    "state": "nothing says what it is, or another version wrote it",
    "power": "the machine stopped before everything was on the disk",
    "purges": "what was purged is not known",
    "damaged": "the file is damaged, or not ours",
    "crash": "a worker was ended by a signal, maybe because of it",
    "size": "the file is larger than max_bytes allows",
    "removed": "somebody removed it",
}
REASONS = tuple(_SENTENCES)
_OBJECTS, _PURGES, _CONDEMNED = 0, 1, 2  # cells: the numbers in use, and 1 + index of a reason
_ERA_AT = 32  # bytes of the segment: what ties the entries to the purges


class MachineHome:
    """The tier of this machine, made before the fork and shared by all processes after it.

    `clocks` are the purges of earlier starts; the supervisor's are kept up by `tend`.
    """

    def __init__(self, folder: Path, size: int, log: PurgeLog) -> None:
        """Take the folder, and what lies in it if that can be relied on. Raises OSError when it cannot be
        used at all: BlockingIOError when another edge has it."""
        self.folder = folder
        self.size = size
        self.remade: dict[str, int] = dict.fromkeys(REASONS, 0)
        self.ahead = 0.0  # by how many seconds the clock of the entries is ahead of our steady one
        self.survived = False  # does it hold what an earlier start stored?
        self.asked = memoryview(mmap.mmap(-1, HAND + ASKED))
        self._rests_until = 0.0
        self._log = log
        segment = Segment(64)
        self._cells = segment.cells
        self._era = memoryview(segment.buffer)[_ERA_AT : _ERA_AT + purge_journal.ERA]
        self._lock = self._take_folder()
        try:
            self._begin()
        except OSError:
            os.close(self._lock)
            raise

    # --- for every process

    @property
    def number(self) -> int:
        """Of the LMDB file to use; it changes when that was made anew."""
        return self._cells[_OBJECTS]

    @property
    def era(self) -> bytes:
        """What ties the entries of the file to the purges of the journal."""
        return bytes(self._era)

    @property
    def objects(self) -> Path:
        """The LMDB file to use."""
        return self.folder / f"objects.{self.number}"

    def condemn(self, reason: str, number: int) -> None:
        """Say that a file must be made anew; nothing happens when it was already."""
        if number == self.number:
            self._cells[_CONDEMNED] = 1 + REASONS.index(reason)

    def opened(self, number: int) -> None:
        """Whoever opens a file while it is made anew makes an empty one of the old number: it goes too."""
        if number != self.number:
            self._forget(number)

    def _forget(self, number: int) -> None:
        _remove(self.folder / f"objects.{number}")
        _remove(self.folder / f"objects.{number}-lock")

    def _write_down(self, purge: Purge) -> None:
        """The purge log's journal."""
        number = self._cells[_PURGES]
        try:
            if number != self._journal_number:
                self._open_journal()
            written = self._journal.append(purge)
        except OSError:
            written = False
        if not written:
            # A restart would not know of this purge: nothing stored so far may survive until then.
            self.condemn("purges", self.number)
            _remove(self.folder / "state")

    def _open_journal(self) -> None:
        number = self._cells[_PURGES]
        journal = PurgeJournal(self.folder / f"purges.{number}")
        if self._journal_number:
            self._journal.close()
        self._journal, self._journal_number = journal, number

    # --- for the one process that owns the folder

    def _take_folder(self, patience: float = PATIENCE) -> int:
        """Make it, if it is not there, and lock it: the descriptor. Raises OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            take(lock, patience)
        except OSError:
            os.close(lock)
            raise
        return lock

    def _is_removed(self) -> bool:
        """Did somebody remove the folder, or what was in it? Who has files open there does not notice."""
        try:
            return not os.path.samestat(os.stat(self.folder / "lock"), os.fstat(self._lock))
        except FileNotFoundError:
            return True

    def _begin(self) -> None:
        self._journal_number = 0
        state = read_state(self.folder)
        found = self._load(state)
        if isinstance(found, PurgeClocks):
            self.clocks = found
            self.survived = True
            self._era[:] = bytes.fromhex(str(state["era"]))
        else:
            self.clocks = PurgeClocks(self._log.position)
            self._renew(found)
        self._log.begin(self.clocks.position)
        self._write_state(synced=False)
        self._open_journal()
        self._log.journal = self._write_down

    def _load(self, state: dict[str, object]) -> PurgeClocks | str:
        """What was purged, when the files can be relied on; else the reason why not, empty for none."""
        if not state:
            return "state" if self._numbers("objects") else ""
        if state.get("format") != FORMAT:
            return "state"
        if not state.get("synced") and (state.get("boot") != boot() or not boot()):
            return "power"
        try:
            era, objects, purges = bytes.fromhex(str(state["era"])), state["objects"], state["purges"]
            if not isinstance(objects, int) or not isinstance(purges, int) or len(era) != purge_journal.ERA:
                return "state"
            self._cells[_OBJECTS], self._cells[_PURGES] = objects, purges
            if self.objects.exists() and self.objects.stat().st_size > self.size:
                return "size"
            clock = state.get("clock", OFFSET)
            if not isinstance(clock, float) or not isfinite(clock):
                return "state"
            self.ahead = clock - OFFSET if state.get("boot") == boot() else 0.0
            clocks = purge_journal.load(self.folder / f"purges.{purges}", era)
            return "purges" if clocks is None else clocks
        except (KeyError, ValueError, struct.error, OverflowError):
            return "state"
        except FileNotFoundError:
            return "purges"

    def tend(self) -> None:
        """Do what is due: make a condemned file anew, shorten a long journal. A few times a second."""
        catch_up(self.clocks, self._log)
        if time.monotonic() < self._rests_until:
            return
        try:
            if self._is_removed():
                self.condemn("removed", self.number)
            condemned = self._cells[_CONDEMNED]
            if condemned:
                self._renew(REASONS[condemned - 1])
                self._write_state(synced=False)
                self._cells[_CONDEMNED] = 0
            elif self._journal.size > LARGE:
                self._rewrite_journal()
                self._write_state(synced=False)
        except OSError as error:
            self._rests_until = time.monotonic() + REST
            logger.warning("the machine tier in %s cannot be tended: %s", self.folder, error)

    def crashed(self) -> None:
        """A worker ended by a signal that a damaged file may be the cause of."""
        self.condemn("crash", self.number)

    def close(self) -> None:
        """The end of the edge: bring everything to the disk, and say so. Processes that used it are gone."""
        self._log.journal = _nobody
        try:
            if not self._cells[_CONDEMNED]:
                for path in (self.objects, self.folder / f"purges.{self._cells[_PURGES]}"):
                    if path.exists():
                        sync(path)
                self._write_state(synced=True)
        except OSError as error:
            logger.warning("the machine tier in %s could not be closed: %s", self.folder, error)
        os.close(self._lock)

    def _renew(self, reason: str) -> None:
        """Begin with nothing, under the next numbers."""
        if reason == "removed":
            self._lock, before = self._take_folder(0.0), self._lock
            os.close(before)
        old = self._numbers("objects")
        if not self._journal_number or reason in ("purges", "removed"):
            self._era[:] = secrets.token_bytes(purge_journal.ERA)
            self._rewrite_journal()
        # also above one whose file nobody has made yet: a number must not come again (rule 1)
        self._cells[_OBJECTS] = max(self.number, *old, 0) + 1
        for number in old:
            self._forget(number)
        self.asked[:HAND] = bytes(HAND)
        if reason:
            self.remade[reason] += 1
            logger.error("the machine tier in %s is made anew: %s", self.folder, _SENTENCES[reason])

    def _rewrite_journal(self) -> None:
        """Write what is known into a file of the next number. Who appends waits meanwhile."""
        old = self._numbers("purges")
        number = max([*old, self._cells[_PURGES]]) + 1
        with self._log.held():
            catch_up(self.clocks, self._log)
            purge_journal.create(self.folder / f"purges.{number}", self.era, self.clocks)
            for one in old:  # before anybody writes to the other: the state may still name this one
                (self.folder / f"purges.{one}").unlink()
            self._cells[_PURGES] = number
        if self._journal_number:
            self._open_journal()

    def _numbers(self, kind: str) -> list[int]:
        found = [path.name.partition(".")[2] for path in self.folder.glob(f"{kind}.*")]
        return [int(number) for number in found if number.isdigit()]

    def _write_state(self, *, synced: bool) -> None:
        said = {
            "format": FORMAT, "era": self.era.hex(), "boot": boot(), "synced": synced,
            "objects": self.number, "purges": self._cells[_PURGES], "clock": OFFSET + self.ahead,
        }  # fmt: skip
        write_state(self.folder, said)


def _remove(path: Path) -> None:
    with suppress(OSError):  # a disk that is read-only keeps it
        path.unlink(missing_ok=True)


def _nobody(purge: Purge) -> None:
    """Nothing is kept."""
