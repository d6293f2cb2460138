"""The places of records in a FileStorage's file, one by one and many at once, are those that its index has."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, strategies as st
from ZODB.fsIndex import fsIndex
from ZODB.utils import p64, u64

from lotproc.zodb import filestorage
from lotproc.zodb.filestorage import FileIndex
from lotproc.zodb.record_arrays import as_oids

ids = st.one_of(st.integers(0, 70_000), st.integers(0, 2**64 - 1), st.sampled_from([0, 65_535, 65_536, 2**32]))


@pytest.mark.parametrize("few", [0, 5, 2048])
@given(
    index=st.dictionaries(ids, st.integers(1, 2**48 - 1), max_size=20),
    asked=st.lists(st.lists(ids, max_size=6), max_size=6),
    kept=st.integers(1, 3),
)
def test_places_are_those_of_the_index(few: int, index: dict[int, int], asked: list[list[int]], kept: int) -> None:
    stored = fsIndex({p64(oid): place for oid, place in index.items()})
    with mock.patch.multiple(filestorage, FEW=few, PARTS=kept):
        places = FileIndex(SimpleNamespace(_index=stored))
        for wanted in [*asked, list(index)]:
            found = places.places(as_oids(map(p64, wanted)))
            assert found.tolist() == [index.get(oid, 0) for oid in wanted]
            assert [places.one(p64(oid)) for oid in wanted] == found.tolist()


def test_many_ids_of_few_parts() -> None:
    stored = fsIndex({p64(3 * number): number + 1 for number in range(60_000)})
    places = FileIndex(SimpleNamespace(_index=stored))
    oids = as_oids(map(p64, range(180_000)))
    for _ in range(2):
        found = places.places(oids)
        assert (found[::3] == np.arange(1, 60_001)).all()
        assert not found[1::3].any()
    assert u64(oids[-1].tobytes()) == 179_999
