"""Many records at once are those that are read one by one, on every storage, at every transaction; and few queries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import count as numbers
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings, strategies as st
from lotdb import BaseNode
from recording import examples
from servers import Postgres, counted_questions, zeo_server
from transaction import TransactionManager
from trees import exactly, opened, scanned_live
from view_writer import relational
from ZODB.FileStorage import FileStorage
from ZODB.utils import p64, u64

import lotproc as lp
from lotproc._fast import FAST
from lotproc.writing import running
from lotproc.zodb import pinned as _pinned, rows as _rows
from lotproc.zodb.appending import new_oids
from lotproc.zodb.pinned import PinnedInstance, PinnedStorage, pinned_at
from lotproc.zodb.record_arrays import as_oids
from lotproc.zodb.storages import opened_storage
from lotproc.zodb.uris import Wish

SPEAKERS, CLIPS = 8, 40  # more children than one bucket holds
BRANCHES = 30


@dataclass
class Kept:
    """A tree in a storage.

    Args:
        root: Its root.
        tids: The transactions that can be read: each, or the last one.
        oids: The ids of its objects.
    """

    root: BaseNode
    tids: list[bytes]
    oids: list[bytes]

    @property
    def db(self) -> Any:
        return self.root._p_jar.db()


def by_uri(stack: ExitStack, uri: str) -> Any:
    wish = Wish("test", uri, create=True, read_only=False, timeout=60)
    stack.enter_context(wish.resources)
    return opened_storage(wish)[0]


KINDS = ["file", "zeo", "postgres", "postgres without history", "sqlite", "sqlite without history"]


@pytest.fixture(scope="module", params=KINDS)
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    kind, folder = request.param, tmp_path_factory.mktemp("kept")
    history = "without" not in kind
    with ExitStack() as stack:
        if kind == "file":
            storage = FileStorage(str(folder / "data.fs"))
        elif kind == "zeo":
            storage = by_uri(stack, stack.enter_context(zeo_server(folder)))
        elif kind.startswith("sqlite"):
            storage = relational(folder, history=history)
        else:
            server: Postgres = request.getfixturevalue("postgres_server")
            storage = by_uri(stack, server.uri(keep_history=history))
        root = stack.enter_context(opened(storage))
        yield grown(root, history=history)


#: The first transactions had less, and what is told of a name that no node had then is held by `test_missing_names`.
pytestmark = pytest.mark.filterwarnings("ignore:.* no node had an attribute")


def grown(root: BaseNode, *, history: bool) -> Kept:
    """A tree that grew in several transactions, with something removed."""
    commit = root._p_jar.transaction_manager.commit
    for speaker in range(SPEAKERS):
        for clip in range(CLIPS):
            root.gns([f"speaker_{speaker}", f"clip_{clip:02}"]).set_attribute("n", clip)
        commit()
    for clip in range(CLIPS):
        root.gns(["speaker_1", f"clip_{clip:02}"]).set_attribute("n", -clip)
    root.delete_node("speaker_2")
    commit()
    root.gns(["speaker_3", "clip_00", "_p"]).set_attribute("n", "x" * 99_999)
    commit()
    oids: set[bytes] = set()
    tids: set[bytes] = set()
    for node in lp.walk(root):
        for stored in (node, node.node_storage, node.attribute_storage):
            stored._p_activate()
            oids.add(stored._p_oid)
            tids.add(stored._p_serial)
    last = root._p_jar.db().lastTransaction() if history else max(tids)
    return Kept(root, sorted(tids) if history else [last], sorted(oids))


def one_by_one(storage: PinnedStorage, oids: list[bytes]) -> Any:
    try:
        return [storage.load(oid) for oid in oids]
    except Exception as error:
        return type(error)


def at_once(storage: PinnedStorage, oids: list[bytes]) -> Any:
    try:
        found = storage.load_many(as_oids(oids))
    except Exception as error:
        return type(error)
    tids = [tid.tobytes() for tid in found.tids]
    assert [found.one(row) for row in range(len(oids))] == [
        bytes(found.data[start:stop]) for start, stop in found.bounds()
    ]
    return [(found.one(row), tid) for row, tid in enumerate(tids)]


@given(data=st.data())
def test_many_are_those_that_are_read_one_by_one(kept: Kept, data: Any) -> None:
    known = st.integers(0, len(kept.oids) - 1).map(lambda number: kept.oids[number])
    wanted = st.lists(known, max_size=300)
    odd = st.sampled_from([p64(10**9), b"\xff" * 8, p64(0)])
    tid = data.draw(st.sampled_from(kept.tids))
    behind = 1 if len(kept.tids) == 1 else data.draw(st.integers(0, 1))  # or in front of that transaction
    storage = pinned_at(p64(u64(tid) + behind), kept.db)
    with closing(storage), mock.patch("lotproc.zodb.rows.MOST", data.draw(st.sampled_from([3, 100, 5000]))):
        assert type(storage) is not PinnedInstance or "postgres" not in str(kept.db.storage)
        for _ in range(3):
            oids = data.draw(wanted)
            storage.expect(data.draw(wanted))
            assert at_once(storage, oids) == one_by_one(storage, oids)
        oids = [*oids, data.draw(odd)]
        assert at_once(storage, oids) == one_by_one(storage, oids)


def test_a_scan_at_several_transactions(kept: Kept) -> None:
    assert [exactly(record) for record in lp.scan("n", kept.root)] == scanned_live("n", kept.root)
    with mock.patch.object(_pinned, "AHEAD", 7), mock.patch.object(_rows, "MOST_EXPECTED", 9):
        assert [exactly(record) for record in lp.scan("n", kept.root, skip="_*")] == scanned_live(
            "n", kept.root, skip="_*"
        )
    for tid in kept.tids[::3] if len(kept.tids) > 1 else ():
        with closing(kept.db.open(TransactionManager(), before=p64(u64(tid) + 1))) as then:
            root = then.root.stt
            live = scanned_live("n", root)
            assert [exactly(record) for record in lp.scan("n", root)] == live
            assert [exactly(record) for record in lp.scan("n", kept.root, at=tid)] == live


# --- How many queries ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not FAST, reason="the fast way is turned off")
@pytest.mark.parametrize("history", [True, False])
def test_few_queries(postgres_server: Postgres, history: bool) -> None:
    with lp.open_root(postgres_server.uri(keep_history=history), create=True) as root:
        for speaker in range(BRANCHES):
            for clip in range(CLIPS):
                root.gns([f"speaker_{speaker:02}", f"clip_{clip:02}"]).set_attribute("n", clip)
        root._p_jar.transaction_manager.commit()
        records = list(lp.scan("n", root))
        results = [lp.ProcessResult(record.path, 1) for record in records]
        lp.write(lp.inline("_p"), root, results, commit_every=1000, version="1")
        root._p_jar.cacheMinimize()

        with counted_questions() as questions:
            for stage, most in (
                (lambda: lp.scan("n", root, skip="_*"), 35),
                (lambda: lp.scan("result", root, where="_p"), 45),
                (lambda: lp.pending(lp.inline("_p"), root, records, version="1"), 70),
            ):
                assert len(list(stage())) in (0, len(records))
                count, read = questions()
                assert count <= most
                assert read > len(records)
            batches = lp.chunked(300, results)
            assert lp.write(lp.inline("_q"), root, batches, commit_every=600).written == len(records)
            count, read = questions()
            assert count <= 40
            assert read > len(records)
            for every, most in ((1000, 120), (150, 220)):
                places = [lp.ProcessResult(record.path, 1) for record in records]
                assert lp.write(lp.inline(f"_{every}"), root, places, commit_every=every).written == len(records)
                count, read = questions()
                assert count <= most
                assert read > len(records)


@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_new_ids_are_those_of_no_object(kept: Kept, counts: list[int]) -> None:
    connection = kept.root._p_jar
    given: list[bytes] = []
    for count in counts:
        ids = new_oids(connection._normal_storage, count)
        assert len(ids) == count
        given += [*ids, connection.new_oid()]
    assert len({*given, *kept.oids}) == len(given) + len(kept.oids)


@pytest.mark.skipif(not FAST, reason="the fast way is turned off")
def test_a_server_of_zeo_is_asked_ahead(tmp_path: Any) -> None:
    from ZEO.ClientStorage import ClientStorage

    with zeo_server(tmp_path) as uri, lp.open_root(uri, create=True) as root:
        for speaker in range(BRANCHES):
            for clip in range(CLIPS):
                root.gns([f"speaker_{speaker:02}", f"clip_{clip:02}"]).set_attribute("n", clip)
        root._p_jar.transaction_manager.commit()
        asked: set[bytes] = set()
        alone: list[bytes] = []
        ask, load = ClientStorage.prefetch, ClientStorage.loadBefore

        def prefetch(storage: Any, oids: Any, tid: bytes) -> None:
            asked.update(oids)
            ask(storage, oids, tid)

        def load_before(storage: Any, oid: bytes, tid: bytes) -> Any:
            if oid not in asked:
                alone.append(oid)
            return load(storage, oid, tid)

        with mock.patch.multiple(ClientStorage, prefetch=prefetch, loadBefore=load_before):
            assert len(list(lp.scan("n", root))) == BRANCHES * CLIPS
        assert len(asked) > 3 * BRANCHES * CLIPS
        assert len(alone) < 20


# --- Views that are gone ---------------------------------------------------------------------------------------------


def test_a_pin_that_others_wrote_past(postgres_server: Postgres) -> None:
    uri = postgres_server.uri(keep_history=False)
    with lp.open_root(uri, create=True) as root, lp.open_root(uri) as other:
        root.gns(["a", "b"]).set_attribute("n", 1)
        root._p_jar.transaction_manager.commit()
        other._p_jar.transaction_manager.begin()
        other.gns(["a", "b"]).set_attribute("n", 2)
        other._p_jar.transaction_manager.commit()
        for read in (
            lambda: list(lp.scan("n", root)),
            lambda: list(lp.pending(lp.inline("b"), root, [lp.NodeRecord(("a",), "a")], version="1")),
        ):
            with pytest.raises(lp.OutOfViewError) as raised:
                read()
            assert "begin a transaction" in (raised.value.hint or "")
        root._p_jar.transaction_manager.begin()
        assert [record.attributes["n"] for record in lp.scan("n", root)] == [2]


def test_a_pin_that_was_packed_away(postgres_server: Postgres) -> None:
    with lp.open_root(postgres_server.uri(), create=True) as root:
        tids = []
        for value in range(3):
            root.gns(["a", "b"]).set_attribute("n", value)
            root._p_jar.transaction_manager.commit()
            tids.append(lp.transaction_of(root))
        begun = lp.scan("n", root, at=tids[0])
        assert [record.attributes["n"] for record in lp.scan("n", root, at=tids[1])] == [1]
        root._p_jar.db().pack()
        assert [record.attributes["n"] for record in begun] == [0]  # it had been opened in time
        with pytest.raises(lp.OutOfViewError) as raised:
            list(lp.scan("n", root, at=tids[0]))
        assert "at=" in (raised.value.hint or "")
        assert [record.attributes["n"] for record in lp.scan("n", root, at=tids[2])] == [2]


# --- Results that are batches of one ---------------------------------------------------------------------------------

RUNS = numbers()
single_results = st.lists(
    st.builds(
        lambda keys, name, value: lp.ProcessResult(keys, value, {name: value}),
        st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(tuple),
        st.sampled_from(["n", "n", "n", "m", "result"]),  # the last one is refused
        st.integers(0, 9),
    ),
    max_size=12,
)


def outcome(root: BaseNode, base: str, results: Any, **options: Any) -> Any:
    """What a write made of a branch, with its report or its error."""
    told: Any
    try:
        report = lp.write(lp.mirror(base), root, results, **options)
        told = None
    except (lp.LotprocError, ValueError) as error:
        report = error.report  # type: ignore[union-attr]
        told = type(error), str(error).replace(base, "base"), [str(note).replace(base, "base") for note in notes(error)]
    last = None if report.last_path is None else report.last_path[1:]
    branch = root.get_node_path([base])
    assert not root._p_jar._registered_objects
    return as_dict_with_values(branch), told, report.written, report.skipped, report.commits, last


def notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


def as_dict_with_values(node: BaseNode) -> Any:
    found = {tuple(each.gps()[1:]): dict(each.attribute_storage) for each in lp.walk(node)}
    return {
        path: {name: value for name, value in values.items() if value is not None} for path, values in found.items()
    }


@given(
    before=single_results,
    results=single_results,
    if_exists=st.sampled_from(["merge", "replace", "skip", "error"]),
    every=st.sampled_from([1, 2, 3, 5, 50]),
    ahead=st.sampled_from([1, 2, 3, 100]),
)
@settings(deadline=None, max_examples=examples(60))
def test_a_list_of_results_is_written_as_one_that_comes_one_by_one(
    kept: Kept, before: Any, results: Any, if_exists: Any, every: int, ahead: int
) -> None:
    number = next(RUNS)
    bases = [f"list_{number}", f"iterator_{number}"]
    for base in bases:
        kept.root.gn(base)
        kept.root._p_jar.transaction_manager.commit()
        planted = [result for result in before if "result" not in result.attributes]
        lp.write(lp.mirror(base), kept.root, planted, commit_every=100, output_attribute=None)
    with mock.patch.object(running, "AHEAD", ahead):
        found = [
            outcome(kept.root, base, given, if_exists=if_exists, commit_every=every, version="1")
            for base, given in zip(bases, (results, iter(results)), strict=True)
        ]
    assert found[0] == found[1]
    for base in bases:
        kept.root.delete_node(base)
    kept.root._p_jar.transaction_manager.commit()
