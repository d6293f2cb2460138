"""References to all files of a folder, attached as lotdb's own functions do."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from lotdb import BaseNode, DataWriter

from ._public import public
from ._spelling import spelled
from ._stage import check_root

__all__ = [
    "load_files_directory",
    "load_files_folder",
    "load_small_files_directory",
    "load_small_files_folder",
]


@public
@spelled
def load_files_directory(
    tree: BaseNode,
    dir_path: str | os.PathLike[str],
    parameter_separator: str | None = None,
    parameter_seperator: str | None = None,
    filepath_attribute: str = "_pfo_audio_wav",
    file_extension: str = "wav",
) -> int:
    """Attach references to all files below a folder: lotdb's function, in sorted order.

    >>> import os, tempfile
    >>> from lotdb import BaseNode
    >>> from lotproc import load_files_directory
    >>> root = BaseNode("root")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     os.makedirs(os.path.join(folder, "speakers", "ann"))
    ...     open(os.path.join(folder, "speakers", "ann", "clip_1.wav"), "x").close()
    ...     load_files_directory(root, os.path.join(folder, "speakers"))
    1
    >>> [leaf.gps() for leaf in root.iterate_tree_leaves()]
    [['speakers', 'ann', 'clip_1']]

    Args:
        tree: The node to attach below: the folder's own name comes first, then the folders in it, then the file's name.
        dir_path: The folder. As in lotdb, one that isn't there, or that can't be read, counts as empty.
        parameter_separator: Splits a file's name, without its suffix, into several keys.
        parameter_seperator: The same, in lotdb's older spelling; counts where the other is `None`.
        filepath_attribute: The attribute to set, whether it is there or not.
        file_extension: The suffix of the files, without its dot. Letter case counts.

    Returns:
        The number of files. Writes at once, and commits nothing. For the connection's thread only.
    """
    check_root("load_files_directory", tree)
    separator = parameter_seperator if parameter_separator is None else parameter_separator
    top = os.path.normpath(dir_path)
    count = 0
    for folder, folders, names in os.walk(dir_path):
        folders.sort()  # the order in which os.walk goes on
        keys = Path(os.path.relpath(folder, start=os.path.dirname(top))).parts or (os.path.basename(top),)
        count += _attach(tree, keys, folder, names, separator, filepath_attribute, file_extension)
    return count


@public
@spelled
def load_files_folder(
    tree: BaseNode,
    folder_path: str | os.PathLike[str],
    parameter_separator: str | None = "_~_",
    parameter_seperator: str | None = None,
    filepath_attribute: str = "_pfo_audio_wav",
    file_extension: str = "wav",
) -> int:
    """Attach references to the files in one folder: lotdb's function, in sorted order.

    >>> import os, tempfile
    >>> from lotdb import BaseNode
    >>> from lotproc import load_files_folder
    >>> root = BaseNode("root")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     open(os.path.join(folder, "ann_~_clip_1.wav"), "x").close()
    ...     load_files_folder(root, folder)
    1
    >>> [leaf.gps() for leaf in root.iterate_tree_leaves()]
    [['ann', 'clip_1']]

    Args:
        tree: The node to attach below: the keys are the parts of the file's name.
        folder_path: The folder; those in it are not entered.
        parameter_separator: Splits a file's name, without its suffix, into keys; `None` where it is one key.
        parameter_seperator: The same, in lotdb's older spelling; counts only with `parameter_separator=None`.
        filepath_attribute, file_extension: As in `load_files_directory`.

    Returns:
        The number of files. Writes at once, and commits nothing. For the connection's thread only.

    Raises:
        OSError: The folder can't be read.
    """
    check_root("load_files_folder", tree)
    separator = parameter_seperator if parameter_separator is None else parameter_separator
    folder = os.fspath(folder_path)
    return _attach(tree, (), folder, os.listdir(folder), separator, filepath_attribute, file_extension)


def _attach(
    tree: BaseNode,
    keys: tuple[str, ...],
    folder: str,
    names: Iterable[str],
    separator: str | None,
    attribute: str,
    extension: str,
) -> int:
    matching = sorted(name for name in names if name.endswith(f".{extension}"))
    for name in matching:
        stem = os.path.splitext(name)[0]
        node = tree.gns([*keys, *([stem] if separator is None else stem.split(separator))])
        DataWriter.attach_file_reference(node, filepath_attribute=attribute, root=folder, file=name)
    return len(matching)


load_small_files_directory = load_files_directory
load_small_files_folder = load_files_folder
