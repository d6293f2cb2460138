"""What lotproc tells of a run on the way: nothing, unless a program listens to the logger "lotproc"."""

from __future__ import annotations

import logging

__all__ = ["log"]

log = logging.getLogger("lotproc")
log.addHandler(logging.NullHandler())  # else warnings would be shown where nobody has asked for them
