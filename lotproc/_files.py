"""Files that are replaced as a whole: readers see the old one or the new one, and a failure leaves the old one."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

__all__ = ["replacing"]


@contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A new file, open for writing, that takes the target's place when the block ends well.

    It is written beside the target and synced before it is renamed. A link is followed, and an existing target's
    permissions are kept, as `open(target, "wb")` would.
    """
    target = os.path.realpath(target)
    temporary = os.path.join(os.path.dirname(target), f".lotproc-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
