"""One job on a laptop or a cluster, its tree in a file or on a server.

python cluster.py corpus.fs
python cluster.py zeo://db.example.org:9991 dask
mpirun -n 3 python -m mpi4py.futures cluster.py postgresql://db.example.org/corpus mpi
python cluster.py postgresql://db.example.org/corpus ray
"""

import sys
from functools import lru_cache, partial

import lotproc as lp

WORDS, VERSION = lp.inline("_words"), "words-1"


@lru_cache(maxsize=1)
def model():
    """Loaded once in each worker."""
    return lambda seconds: round(2.5 * seconds)  # torch.load("model.pt")


def words(record):
    return model()(record.attributes["seconds"])


def run(root, **where):
    """Records go out to workers, and what comes back is written here."""
    return lp.pipe(
        root,
        lp.scan("seconds", skip="_words"),
        lp.pending(WORDS, root, version=VERSION),
        lp.chunked(128),
        lp.parallel_map(lp.outputs(words), **where),
        lp.write(WORDS, root, version=VERSION, commit_every=1000),
    )


def run_in_parts(root, **where):
    """Workers read, process and write parts of a tree on a server."""
    part = lp.compose_left(
        lp.scan("seconds", skip="_words"),
        lp.pending(WORDS, root, version=VERSION),
        lp.chunked(128),
        lp.parallel_map(lp.outputs(words), mode="sync"),
        lp.write(WORDS, root, version=VERSION),
    )
    parts = lp.partitions(16, root, skip="_words")
    return sum(lp.parallel_map(part, parts, **where), lp.WriteReport())


def processes(job):
    return job(max_workers=2)


def dask(job):
    from distributed import Client

    with Client() as client, client.get_executor() as executor:
        return job(executor=executor)


def mpi(job):
    from mpi4py.futures import MPIPoolExecutor

    with MPIPoolExecutor() as executor:
        return job(executor=executor)


def ray(job):
    from lotproc.executors import RayExecutor

    with RayExecutor() as executor:
        return job(executor=executor)


ENGINES = {"processes": processes, "dask": dask, "mpi": mpi, "ray": ray}


def main(uri, engine="processes"):
    with lp.open_root(uri) as root:
        return ENGINES[engine](partial(run_in_parts if "://" in uri else run, root))


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
