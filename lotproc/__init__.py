"""Process data kept in lotdb trees with small functions that compose.

    traverse -> filter -> snapshot -> batch -> process -> write

Each stage takes its data last, and waits for it where it is left out, so stages compose with `pipe`:

    >>> from lotdb import BaseNode
    >>> import lotproc as lp
    >>> root = BaseNode("corpus")
    >>> for key, seconds in (("clip_1", 1.5), ("clip_2", 0.5)):
    ...     _ = root.gns(["ann", key]).set_attribute("seconds", seconds)
    >>> def double(record):
    ...     seconds = record.attributes["seconds"]
    ...     return lp.ProcessResult(record.path, output=2 * seconds)
    >>> report = lp.pipe(
    ...     root,
    ...     lp.leaves(skip="_proc"),
    ...     lp.snapshot("seconds"),
    ...     lp.chunked(128),
    ...     lp.parallel_map(lp.each(double), mode="thread"),
    ...     lp.write(lp.inline("_proc", "double"), root),
    ... )
    >>> print(report)
    2 results written, not committed
"""

import sys

import lazy_loader

# The names are in `__init__.pyi`. Loading each on first use keeps `import lotproc` as light as it can be.
_load, _names, __all__ = lazy_loader.attach_stub(__name__, __file__)
#: Older names of what has others now, which work and are not offered.
_OLDER = {
    *("filter_node_list", "node_list_to_dataframe", "tree_to_dataframe"),
    *("load_files_directory", "load_files_folder", "load_small_files_directory", "load_small_files_folder"),
    *("PreparationSpec", "ProcessingSpec", "SelectionSpec"),
    *("add_preparation_stage", "add_processing_stage", "add_write_stage"),
    *("build_node_process_pipeline", "build_selection_pipeline", "node_process_cruncher"),
}


def __dir__():  # type: ignore[no-untyped-def]
    return sorted({*_names()} - _OLDER)


def __getattr__(name):  # type: ignore[no-untyped-def]
    try:
        return _load(name)
    except AttributeError:
        if name in __all__:
            raise
        text = f"module {__name__!r} has no attribute {name!r}"
        # Python names the nearest one where it knows of which object, and says so.
        raise AttributeError(text, name=name, obj=sys.modules[__name__]) from None
