"""Stores beside the tree: a directory of files, an LMDB database, a record archive; each a source and a sink."""

import lazy_loader

# The names are in `__init__.pyi`, as those of the package above are.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
