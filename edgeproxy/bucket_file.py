"""Buckets that outlive the edge: a table in a mapped file, which the kernel writes out by itself.

The file is the table, then a trailer: a mark, the number of buckets, and the secret of the digests.
Rule: a file of another shape is begun anew, never guessed at; one edge at a time holds it.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from edgeproxy.policies.bucket_table import BucketTable, bytes_for
from edgeproxy.process_lock import take

_MARK = b"edgebkt1"
_TRAILER = struct.Struct("<8sQ16s")


def kept_table(path: Path, entries: int, *, shared: bool) -> BucketTable:
    """The table in the file at `path`, as the last edge left it; made when there is none.

    Raises OSError when the file cannot be made or locked: another edge holds it, or the disk is full.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            take(file)
        except BlockingIOError as error:
            raise OSError(error.errno, "another edge keeps its rate limits there", str(path)) from None
        return BucketTable(entries, shared=shared, secret=_secret(file, entries), file=file)
    finally:
        os.close(file)  # the mapping has a descriptor of its own, and the lock with it


def mend(path: Path, entries: int) -> bool:
    """Give a file that somebody made shorter its length again: whoever counts in what was cut off is ended by
    a signal. Those counts begin anew. False when nothing was cut off, or nothing can be done."""
    size = bytes_for(entries) + _TRAILER.size
    try:
        if path.stat().st_size >= size:
            return False
        os.truncate(path, size)
    except OSError:
        return False
    return True


def _secret(file: int, entries: int) -> bytes:
    """The secret of a file that fits, which the table keeps using; else the file begins anew."""
    size = bytes_for(entries)
    if os.fstat(file).st_size == size + _TRAILER.size:
        mark, held, secret = _TRAILER.unpack(os.pread(file, _TRAILER.size, size))
        if (mark, held) == (_MARK, entries):
            return secret
    secret = os.urandom(16)
    os.ftruncate(file, 0)
    os.posix_fallocate(file, 0, size + _TRAILER.size)  # a full disk shows here, not as a SIGBUS later
    os.pwrite(file, _TRAILER.pack(_MARK, entries, secret), size)
    return secret
