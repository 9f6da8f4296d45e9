"""
The calls of the system with which a log of the journal is written: all in one place, so that tests can let each fail.
"""

from __future__ import annotations

import errno
import os


class Disk:
    """Files as the system has them.  Each method raises `OSError`."""

    def create(self, path: str, *, durable: bool) -> int:
        """
        Make a new file for this user alone; gives its descriptor.

        :param durable: whether each `write` has to be on the disk at its end, and not only with the system.
        """
        # One call of the system then writes and syncs; a second one for that takes a third more time.
        synced = os.O_DSYNC if durable else 0
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | synced, 0o600)

    def allocate(self, file: int, offset: int, size: int) -> None:
        """Have the file system set aside *size* bytes: what is written there later finds room."""
        try:
            os.posix_fallocate(file, offset, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # of a file system that does not know that
                raise

    def write(self, file: int, data: bytes, offset: int) -> None:
        """Write all of *data*."""
        written = os.pwrite(file, data, offset)
        while written < len(data):  # a signal, or no room for more
            more = os.pwrite(file, data[written:], offset + written)
            if more == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written += more

    def sync(self, file: int) -> None:
        """Have what was changed be on the disk."""
        os.fdatasync(file)

    def truncate(self, file: int, size: int) -> None:
        """Cut a file."""
        os.ftruncate(file, size)

    def sync_folder(self, path: str) -> None:
        """Have names that were made or removed in a folder be so on the disk."""
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def unlink(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)

    def rename(self, path: str, to: str) -> None:
        """Give a file another name."""
        os.rename(path, to)
