"""lotproc against hand-written loops: `nox -s bench`, or `python -m benchmarks.run --help`."""
