"""Digests of attributes: the same for the same values, wherever they are made; others for all other values."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import os
import pickle
import re
import shutil
import subprocess
import sys
import uuid
import zoneinfo
from collections import OrderedDict, defaultdict
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from lotdb import LOTDB, BaseNode, add_blob
from trees import Color, Segment, values

import lotproc as lp
from lotproc._detaching import detached
from lotproc._stamps import DIGEST, inputs_stamp

NAN = float("nan")


def inputs_digest(name: str, path: Any, attributes: Any) -> str:
    """The part of a stamp that counts values, without the files behind them."""
    return inputs_stamp(name, path, attributes)[:DIGEST]


def digest(value: Any) -> str:
    return inputs_digest("pending", ("ann", "clip"), {"a": value})


class Number(enum.IntEnum):
    ONE = 1


class Flags(enum.Flag):
    A = 1
    B = 2


class Text(str):
    """A str of another type."""


@dataclasses.dataclass
class Plain:
    a: Any
    b: Any = None


@dataclasses.dataclass(frozen=True)
class Slotted:
    __slots__ = ("a", "b")
    a: Any
    b: Any


@dataclasses.dataclass(slots=True)
class WithSlots:
    a: Any
    b: Any


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenWithSlots:
    a: Any
    b: Any


class Slots:
    __slots__ = ("a", "b")

    def __init__(self, a: Any) -> None:
        self.a = a


class Bare:
    pass


RECORD = np.dtype([("x", "<i2"), ("y", "<f8")])
UTC = zoneinfo.ZoneInfo("UTC")

#: Values all of which differ, although many are equal by `==`, and what their digests are in every version of Python.
#: A change of one of these numbers makes every user's results be made again.
GOLDEN: dict[str, Any] = {
    "0": 0,
    "1": 1,
    "-1": -1,
    "10**400": 10**400,
    "1.0": 1.0,
    "0.0": 0.0,
    "-0.0": -0.0,
    "nan": NAN,
    "inf": float("inf"),
    "True": True,
    "False": False,
    "None": None,
    "...": ...,
    "'1'": "1",
    "b'1'": b"1",
    "''": "",
    "b''": b"",
    "surrogate": "\ud800",
    "1j": 1j,
    "Decimal 1": decimal.Decimal("1"),
    "Decimal 1.0": decimal.Decimal("1.0"),
    "Decimal NaN": decimal.Decimal("NaN"),
    "1/3": fractions.Fraction(1, 3),
    "uuid": uuid.UUID(int=7),
    "date": datetime.date(2026, 1, 2),
    "datetime": datetime.datetime(2026, 1, 2),
    "datetime fold": datetime.datetime(2026, 1, 2, fold=1),
    "datetime utc": datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
    "datetime zone": datetime.datetime(2026, 1, 2, tzinfo=UTC),
    "time": datetime.time(1, 2),
    "timedelta": datetime.timedelta(1, 2, 3),
    "timezone": datetime.timezone(datetime.timedelta(hours=1)),
    "timezone by name": datetime.timezone(datetime.timedelta(hours=1), "CET"),
    "posix path": PurePosixPath("/data/a b.wav"),
    "windows path": PureWindowsPath("C:\\a"),
    "path": Path("é/b"),
    "range": range(3),
    "slice of a range": range(0, 3, 2),
    "Color.RED": Color.RED,
    "Number.ONE": Number.ONE,
    "Flags.A": Flags.A,
    "Flags.A | Flags.B": Flags.A | Flags.B,
    "Text": Text("1"),
    "int": int,
    "BaseNode": BaseNode,
    "len": len,
    "digest": inputs_stamp,
    "()": (),
    "[]": [],
    "{}": {},
    "set()": set(),
    "frozenset()": frozenset(),
    "[1]": [1],
    "(1,)": (1,),
    "{1}": {1},
    "[[1], 2]": [[1], 2],
    "[[1, 2]]": [[1, 2]],
    "['a', 'b']": ["a", "b"],
    "['ab', '']": ["ab", ""],
    "{1: 2}": {1: 2},
    "{2: 1}": {2: 1},
    "{'1': 2}": {"1": 2},
    "many": {f"n{number}": [number, str(number)] for number in range(50)},
    "set of many": {f"n{number}" for number in range(50)},
    "OrderedDict": OrderedDict(a=1, b=2),
    "OrderedDict reversed": OrderedDict(b=2, a=1),
    "defaultdict": defaultdict(list, a=1, b=2),
    "bytearray": bytearray(b"1"),
    "pattern": re.compile("a+", re.IGNORECASE),
    "Segment": Segment(1.5, ("a", None)),
    "Plain": Plain(1, 2),
    "Plain 2": Plain(2, 1),
    "Slotted": Slotted(1, [2]),
    "Slots": Slots(1),
    "WithSlots": WithSlots(1, [2]),
    "FrozenWithSlots": FrozenWithSlots(1, [2]),
    "Bare": Bare(),
    "float64": np.float64(1.0),
    "float32": np.float32(1.0),
    "int64": np.int64(1),
    "bool_": np.bool_(True),
    "str_": np.str_("1"),
    "str_ empty": np.str_(""),
    "str_ zero": np.str_("\x00"),
    "bytes_": np.bytes_(b"1"),
    "datetime64 day": np.datetime64("2026-01-01"),
    "datetime64 s": np.datetime64("2026-01-01", "s"),
    "dtype": np.dtype("<f8"),
    "array f8": np.array([1.0]),
    "array f4": np.array([1.0], "f4"),
    "array i8": np.array([1], "<i8"),
    "array 0-d": np.array(1.0),
    "array (1, 1)": np.array([[1.0]]),
    "array (2, 3)": np.arange(6.0).reshape(2, 3),
    "array empty": np.zeros((0, 3)),
    "array empty (3, 0)": np.zeros((3, 0)),
    "array U": np.array(["a", "b"]),
    "array S": np.array([b"a", b"b"]),
    "array object": np.array(["a", None, 1], dtype=object),
    "array datetime": np.array(["2026-01-01"], "M8[D]"),
    "array records": np.array([(1, 2.0)], RECORD),
    "array records by name": np.array([(1, 2.0)], [("x", "<i2"), ("z", "<f8")]),
    "array records aligned": np.zeros(1, np.dtype([("x", "<i2"), ("y", "<f8")], align=True)),
    "array of subarrays": np.zeros(1, [("x", "<i2", (2, 2))]),
    "masked": np.ma.masked_array([1.0, 2.0], [True, False]),
    "masked otherwise": np.ma.masked_array([1.0, 2.0], [False, True]),
    "matrix": np.array([[1.0]]).view(np.matrix),
    "handle": lp.PayloadHandle("array", Path("/x/t.fs.blobs/0x01/0x02.blob"), None, (3,), "float64", 4.0),
    "handle bytes": lp.PayloadHandle("bytes", Path("/x/t.fs.blobs/0x01/0x02.blob")),
    "handle zarr": lp.PayloadHandle("array", Path("/x/t.fs.data.zarr"), "a/b", (3,), "float64", 4.0),
}

DIGESTS = {
    "0": "2753a4950803ea9ff59ecf5d4028bdc7",
    "1": "1948537e77e54d5abe3cbbde0ddd77c9",
    "-1": "c8babe93f86707c8163a24c28eb6e103",
    "10**400": "9eaf8ad3bfdcd8cc401b50814a1f9e9d",
    "1.0": "b5e21095ff7a6b8e664c04ce15103161",
    "0.0": "bea6f8ce8f98837a4739a07927e1820c",
    "-0.0": "655188c958f19eb618bcc3844befa3b6",
    "nan": "cb7745722ea03c864c30f13e0c3f7502",
    "inf": "2b6f0872531b44f238ef9bb36eedf8ad",
    "True": "9388f1fcbf6607546a78925f9ca3e63b",
    "False": "e31b952c961bff1c93913a20a3dae42d",
    "None": "c6d5a35025d6a8d0abb10bc3ebc343b1",
    "...": "d5d1b9da662a14437734c878ecace130",
    "'1'": "bc4d45164bab61efe3e4ab524163701a",
    "b'1'": "d175e929a8b81059893920113a409e18",
    "''": "df8da641688d089529854c2235f881e5",
    "b''": "dada71a25b318b5816f19b5a8859f968",
    "surrogate": "757b7c2686d6ed5ebec03d976adaa477",
    "1j": "096d818299bf9eb22fcb139da33effb8",
    "Decimal 1": "5497e6c5944dec7c33347878c1814c09",
    "Decimal 1.0": "ac4e6f16ef9fa54ff79e3f51aa138c51",
    "Decimal NaN": "11257269f417c529bdd2f4e7ac96f01f",
    "1/3": "cd5b26e4784b688892879895544bd060",
    "uuid": "687e16ddac032fcf578c25f5b11728d5",
    "date": "fc8a2da14f06c4f53afa76de4f9467de",
    "datetime": "20d5471f7630b1684d921a81fc656b3a",
    "datetime fold": "26d700648d2b75730d67db757b3a5d45",
    "datetime utc": "642362a0ca42b901c143917104ccdace",
    "datetime zone": "2bcc701691954012ad1a80b224cb2ff6",
    "time": "3a3937d74151579de6d4aedd44aa0139",
    "timedelta": "90a7a43d93145fb3a8690c865a9e6fe0",
    "timezone": "2a8c66078acbf8f417bc3b63a494de31",
    "timezone by name": "be9fd8a687a14920738d7f5a4dfce0aa",
    "posix path": "bf3b8143da8b36c423a20029e97f1848",
    "windows path": "761549bc956aba329541a95cad02750c",
    "path": "3b84cbc36481fcb9f298af461821fa19",
    "range": "cc3763c90224482364ea7766b0ba79e7",
    "slice of a range": "513022e71100ef3ca5faa15c4ca331cb",
    "Color.RED": "fa419f98501abf21315a6013c12397e1",
    "Number.ONE": "8398f1862e7838d6b8e6c6d0a2098d14",
    "Flags.A": "563afe6254805c6db6af0d3a498ad21f",
    "Flags.A | Flags.B": "77f4073e3278b2128a59f0abf9d0c648",
    "Text": "b36f3ad558249a35b7b7fa8c000fd28f",
    "int": "ff362551b48ae91e4001e3e57f271e2f",
    "BaseNode": "a119cbf62385cf71661656e379b814c7",
    "len": "96ffda87e5c635c56f3cf1190519c301",
    "digest": "e365c1bd1919936e87f9d43dcebe4a45",
    "()": "fa1c799cbfb035f3cf0c3a6d3aba97da",
    "[]": "46c06969ce51d66dcbe10ea9d91e5c6e",
    "{}": "ecb06774136d9a38209901b09dec0d3d",
    "set()": "dfa3820c6be7669f2176ec675c71c051",
    "frozenset()": "a5978e292f351aec9d12f7e40a33359e",
    "[1]": "02eedf4986079926da3276c3fb2154d2",
    "(1,)": "8e8fc0dfe73813136a3b3bd4fdeba81d",
    "{1}": "3bdc819b07a967d7b6563fee94e9213e",
    "[[1], 2]": "5268556993a05997f19f1de2e3a4643f",
    "[[1, 2]]": "6c1ceaf185fe23f2a11c674780d02c6f",
    "['a', 'b']": "4e9084a456301400b257c20e6e1a04e1",
    "['ab', '']": "f6fc69b7985057da85ee40226cae1056",
    "{1: 2}": "4223418fb04702f0fbe493dcfb521405",
    "{2: 1}": "2dc834dbfdeff504b7f28ffbeb605583",
    "{'1': 2}": "0e304335ab78bdf81ac14f072fd41fb3",
    "many": "7138b1e6479a9c7d7c29cea98f4aa031",
    "set of many": "01d1b1cba0819b572f622c18b88ba89e",
    "OrderedDict": "fc053bf03a723e1e390a8742c0db4fc9",
    "OrderedDict reversed": "2be96f733947aa10e6eafc5df01f1d62",
    "defaultdict": "02d0b396b4a46ca2269f2167c0d26e20",
    "bytearray": "f361de4dd4ecaed132d376eae489d8ea",
    "pattern": "046ae35915a8408950672f403b3fb82d",
    "Segment": "b853d8e5c4c54346da312dd46fb0171f",
    "Plain": "db58f37363c55a2aea66f06164b47e71",
    "Plain 2": "e648951b5b56fb53702505491d7dc4ba",
    "Slotted": "39bd3a73ef945594ec7c5f8fa37071f1",
    "Slots": "1ee9429f0bf121b3c674f00ff8829616",
    "WithSlots": "14f5454422e836459f52f77dfcc7e0ad",
    "FrozenWithSlots": "12a95bb7b375c54f8bfcef274f2b79e2",
    "Bare": "9d45a4c2473b7b0433a1d12318000b09",
    "float64": "7eadffc3c85a95f9ed5e660a3804de5a",
    "float32": "6e58fea18622af3fa8c5b78e9466d826",
    "int64": "5e65d88b5d3d27a72d2e759c4d6403bb",
    "bool_": "d65eb078a995ef762def46aa188d4a2c",
    "str_": "b4f1d797722978034d72461a955b2191",
    "str_ empty": "f569dfdc5a1b32048dc825905309e721",
    "str_ zero": "ca0ad3c0b067744616894749cab4e008",
    "bytes_": "5d6147e6b4395cd9b05e39dc99929227",
    "datetime64 day": "15836c046a386ea1fa22cf6664e58142",
    "datetime64 s": "07d2e1d51ee4b0eb88ad56218806602e",
    "dtype": "df989a345b3f60af63ea39e151f8a019",
    "array f8": "28082cf4a5aaf44dc01772b382e1fde3",
    "array f4": "6dbb8d5c5f2ab69ad19adfd7e8f488b8",
    "array i8": "918d888c8be3ae48c1216dfd9622f7ed",
    "array 0-d": "03bc9301d79eeaf63536a69984a436e3",
    "array (1, 1)": "8b40d83bb95658d715a702df87b90ea6",
    "array (2, 3)": "3996591bd3533f0f3cb32cdde730de62",
    "array empty": "46981a6f8f6c9fcb4d0b24fe4ca5567e",
    "array empty (3, 0)": "c6b64fee059d688ba21ea4a054ce08b4",
    "array U": "5bd6008ee82d5d494b715d5d1f163a80",
    "array S": "daa8fa550820e969da022b591045f246",
    "array object": "6173cc45e56840cc43616f676e2f099c",
    "array datetime": "c481f7f794a36ec2bcfeff544301bf50",
    "array records": "7110cc45f122530aa8ec867f24a404ff",
    "array records by name": "ddededfefc753e0c6e646de81aa34a27",
    "array records aligned": "dbc3a673ab44393aface211a21850e87",
    "array of subarrays": "421f3f1b70a36b3a80d2bb918f9fa442",
    "masked": "f2aea76dcab20a2eae22943ba3ced8db",
    "masked otherwise": "58581c19a81fc8e724774a6a98d04399",
    "matrix": "3b57a716bcc6199468ab2a65d07840e3",
    "handle": "a96fda619c463c73cee4c31573b761e0",
    "handle bytes": "5a5e90ecd7e55814d027504334e8344b",
    "handle zarr": "6b3aab7d298ab4167ae2ae4dd5d2349f",
}


def test_the_digests_of_these_values_never_change() -> None:
    assert {name: digest(value) for name, value in GOLDEN.items()} == DIGESTS


def test_values_that_differ_have_different_digests() -> None:
    assert len(set(DIGESTS.values())) == len(GOLDEN)


@pytest.mark.parametrize("seed", ["0", "1", "4711"])
def test_digests_are_the_same_in_other_processes(seed: str) -> None:
    code = "import test_stamps as t; print([t.digest(value) for value in t.GOLDEN.values()])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{list(DIGESTS.values())}\n"


# --- Laws -----------------------------------------------------------------------------------------------------------


def canonical(value: Any) -> Any:
    """What tells a value from all others: nested tuples of types and strs."""
    kind = type(value)
    if kind is dict:
        return kind, frozenset((canonical(key), canonical(item)) for key, item in value.items())
    if kind in (set, frozenset):
        return kind, frozenset(map(canonical, value))
    if kind in (list, tuple):
        return kind, tuple(map(canonical, value))
    if kind is np.ndarray:
        return kind, value.dtype.str, value.shape, canonical(value.tolist())
    return kind, repr(value)


def in_place_of(value: Any) -> Any:
    """An equal value that shares nothing with it and has its dicts in another order."""
    kind = type(value)
    if kind is dict:
        return {in_place_of(key): in_place_of(item) for key, item in reversed(value.items())}
    if kind in (set, frozenset):
        return kind(sorted((in_place_of(item) for item in value), key=repr, reverse=True))
    if kind in (list, tuple):
        return kind(map(in_place_of, value))
    if kind is np.ndarray:
        return np.asfortranarray(value.copy()) if value.ndim else value.copy()
    return pickle.loads(pickle.dumps(value))


#: Values that are easily taken for one another.
close = st.recursive(
    st.sampled_from([0, 1, True, False, 0.0, -0.0, 1.0, NAN, None, "", "1", "a", b"", b"1", (), "i1;", "s1:a", 1j]),
    lambda items: st.one_of(
        st.lists(items, max_size=3),
        st.lists(items, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from(["", "a", "b", "1", 1, None]), items, max_size=3),
        st.sets(st.sampled_from(["", "a", 1, None]), max_size=3),
        st.frozensets(st.sampled_from(["", "a", 1, None]), max_size=3),
        items.map(lambda item: np.array([item, None], dtype=object)[:1]),
        st.lists(st.integers(0, 1), max_size=2).map(np.array),
    ),
    max_leaves=5,
)


@given(st.lists(close, min_size=2, max_size=12))
def test_digests_are_equal_where_values_are(close: list[Any]) -> None:
    digests = list(map(digest, close))
    wanted = list(map(canonical, close))
    for first in range(len(close)):
        for second in range(first):
            assert (digests[first] == digests[second]) == (wanted[first] == wanted[second])


@given(values)
def test_whatever_a_record_holds_has_a_digest(value: Any) -> None:
    plain = detached("snapshot", value, "a", ())
    found = digest(plain)
    assert re.fullmatch("[0-9a-f]{32}", found)
    assert digest(in_place_of(plain)) == found
    assert digest([plain, plain]) == digest([plain, in_place_of(plain)]) != found
    assert digest({"x": plain}) != digest([plain])


@given(st.dictionaries(st.text(max_size=3), close, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_attributes_does_not_matter_and_their_names_do(attributes: dict[str, Any], random: Any) -> None:
    found = inputs_digest("pending", (), attributes)
    shuffled = list(attributes.items())
    random.shuffle(shuffled)
    assert inputs_digest("pending", (), dict(shuffled)) == found
    assert inputs_digest("pending", (), {**attributes, "more": None}) != found
    if attributes:
        renamed = {f"{name}~": value for name, value in attributes.items()}
        assert inputs_digest("pending", (), renamed) != found


@given(
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from(["<f8", ">f8", "i1", "?", "U3", "S2", "c8", "O", "M8[s]", [("a", "i2"), ("b", "O")], "g", "V4"]),
)
def test_the_memory_order_of_an_array_does_not_matter(shape: tuple[int, ...], dtype: Any) -> None:
    numbers = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    array = np.zeros(shape, dtype)
    if array.dtype.kind == "V":
        array = numbers.astype("<i4").view("V4") if array.dtype.names is None else array
        for name in array.dtype.names or ():
            array[name] = numbers
        dtype = array.dtype
    else:
        array[...] = numbers.astype(dtype)
    wide = np.zeros((*shape, 2), dtype)[..., 0]
    wide[...] = array
    assert digest(array) == digest(np.asfortranarray(array) if shape else array) == digest(wide)
    assert digest(array) != digest(array.reshape((*shape, 1)))
    if array.size and array.dtype.names is None and array.dtype.kind not in "VM":
        changed = array.copy()
        changed.flat[-1] = 9 if array.dtype.kind != "b" else not array.flat[-1]
        assert digest(changed) != digest(array)


def test_what_lies_between_the_fields_of_an_array_does_not_matter() -> None:
    padded = np.dtype([("x", "i1"), ("y", "f8")], align=True)
    zeros = np.frombuffer(b"\x00" * 32, padded)
    noise = np.frombuffer((b"\x00" + b"\x07" * 7 + b"\x00" * 8) * 2, padded)
    assert digest(zeros) == digest(noise)


def test_a_file_that_is_mapped_is_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(5))
    assert digest(np.load(tmp_path / "a.npy", mmap_mode="r")) == digest(np.arange(5))


def test_other_nans_are_nan() -> None:
    assert digest(-NAN) == digest(NAN) == digest(float("inf") - float("inf"))


def test_what_is_shared_many_times_is_looked_at_once() -> None:
    shared: Any = [1]
    for _ in range(200):
        shared = [shared, shared]
    assert digest(shared) == digest(pickle.loads(pickle.dumps(shared)))


def test_attributes_that_were_never_set_do_not_matter() -> None:
    first, second = Plain(1), Plain(1)
    second.__dict__ = dict(reversed(second.__dict__.items()))
    assert digest(first) == digest(second)


# --- Payloads -------------------------------------------------------------------------------------------------------


def handles(folder: Path) -> dict[str, str]:
    """The digests of the payloads of a database, by their nodes."""
    database = LOTDB(path=str(folder), name="t.fs")
    records = list(lp.scan("audio", database.open_connection()))
    database.close()
    assert all(isinstance(record.attributes["audio"], lp.PayloadHandle) for record in records)
    return {record.key: inputs_digest("pending", record.path, record.attributes) for record in records}


def test_a_payload_is_known_wherever_its_database_is_moved_until_it_is_written_anew(tmp_path: Path) -> None:
    database = LOTDB(path=str(tmp_path / "a"), name="t.fs", new=True)
    root = database.open_connection()
    for key in ("one", "two"):  # in one transaction, with one content
        add_blob(root.gn(key), data=b"RIFF", blob_attribute="audio")
    database.commit()
    database.close()
    found = handles(tmp_path / "a")
    assert found["one"] != found["two"]

    shutil.move(tmp_path / "a", tmp_path / "0x00" / "b")
    assert handles(tmp_path / "0x00" / "b") == found

    database = LOTDB(path=str(tmp_path / "0x00" / "b"), name="t.fs")
    root = database.open_connection()
    root.gn("one").get_attribute("audio").write_bytes(b"RIFX")
    database.commit()
    database.close()
    after = handles(tmp_path / "0x00" / "b")
    assert after["one"] != found["one"]
    assert after["two"] == found["two"]


def test_an_array_in_a_zarr_store_is_known_by_its_place_in_it() -> None:
    def handle(folder: str, dataset: str) -> str:
        return digest(lp.PayloadHandle("array", Path(folder, "t.fs.data.zarr"), dataset, (3,), "int64"))

    assert handle("/here", "+ann/1a") == handle("/there", "+ann/1a") != handle("/here", "+ann/1b")


# --- Files ----------------------------------------------------------------------------------------------------------

#: Where a path can stand in a value.
PLACES: list[Any] = [
    lambda path: path,
    lambda path: [1, {"in": (path, path)}],
    lambda path: {path},
    lambda path: Plain(path, 1),
    lambda path: np.array([None, path], dtype=object),
]


@given(data=st.data(), place=st.sampled_from(PLACES))
def test_a_stamp_changes_with_the_size_and_the_time_of_its_files_and_with_nothing_else(
    data: st.DataObject, place: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "files"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    paths = [folder / "a", folder / "b"]
    attributes = {"files": [place(path) for path in paths], "more": 0.5}
    values = inputs_digest("pending", (), attributes)
    known: dict[Any, str] = {}
    for _ in range(4):
        for path in paths:
            size, time = (
                data.draw(st.none() | st.integers(0, 1), label="size"),
                data.draw(st.integers(1, 2), label="ns"),
            )
            path.unlink(missing_ok=True)
            if size is not None:
                path.write_bytes(data.draw(st.sampled_from([b"x", b"y"])) * size)
                os.utime(path, ns=(time, time))
        told = tuple((path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else None for path in paths)
        stamp = inputs_stamp("pending", (), attributes)
        assert known.setdefault(told, stamp) == stamp
        assert stamp[: len(values)] == values == inputs_digest("pending", (), attributes)
    assert len(set(known.values())) == len(known)


def test_what_is_no_path_of_this_system_has_no_file() -> None:
    for value in (PureWindowsPath("C:/a.wav"), PurePosixPath("/"), "/", lp.PayloadHandle("bytes", Path("/"))):
        assert inputs_stamp("pending", ("ann", "clip"), {"a": value}) == digest(value)
    assert len(inputs_stamp("pending", (), {"a": Path("no\0file")})) == 65


def test_an_array_in_a_zarr_store_is_known_by_the_files_of_its_own(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")

    def written(dataset: str, fill: int) -> None:
        array = zarr.open(store=str(store), mode="w", path=dataset, shape=(4,), chunks=(2,), dtype="i4")
        array[:] = fill

    def stamp() -> str:
        return inputs_stamp("pending", (), {"a": [lp.PayloadHandle("array", store, "ann/data", (4,), "int32")]})

    store = tmp_path / "here" / "t.fs.data.zarr"
    written("ann/data", 1)
    first = stamp()
    written("ann/other", 1)
    assert stamp() == first
    (tmp_path / "here").rename(tmp_path / "there")
    store = tmp_path / "there" / "t.fs.data.zarr"
    assert stamp() == first
    folder = store / "ann" / "data"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(files) >= 3
    for path in files:
        os.utime(path, ns=(path.stat().st_mtime_ns, path.stat().st_mtime_ns + 1))
        assert stamp() != first
        first = stamp()
    zarr.open(store=str(store), mode="r+", path="ann/data")[0] = 5
    assert stamp() != first
    shutil.rmtree(folder)
    assert len({stamp(), first}) == 2


# --- Errors ---------------------------------------------------------------------------------------------------------

ring: list[Any] = [1]
ring.append({"again": (ring,)})
knot = Bare()
knot.self = knot  # type: ignore[attr-defined]
deep: Any = []
for _ in range(5000):
    deep = [deep]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (ring, "a list in it holds itself"),
        (knot, "a Bare in it holds itself"),
        (deep, "it is nested too deep"),
        (lambda: None, "it holds <lambda>, which can't be found by its name"),
        (BaseNode("live"), r"it holds a persistent BaseNode inside; take records with snapshot() or scan()"),
        ((item for item in ()), "cannot pickle 'generator' object"),
    ],
)
def test_what_has_no_digest_is_told_with_path_and_name(value: Any, reason: str) -> None:
    with pytest.raises(lp.LotprocError) as raised:
        inputs_digest("pending", ("ann", "clip_1"), {"a": 1, "b": [value], "c": 2})
    assert type(raised.value).__name__ == "ArgumentTypeError"
    text = str(raised.value).replace("test_stamps.", "")
    assert text.startswith("pending: attribute 'b' at ann/clip_1 has no digest: ")
    assert reason in text
    assert text.endswith("; leave it out of the names")
    assert raised.value.__cause__ is raised.value.__context__ is None


def test_a_name_that_is_no_str_is_refused() -> None:
    with pytest.raises(lp.LotprocError, match="attribute 1 at clip_1 has no digest: the name of an attribute must be"):
        inputs_digest("pending", ("clip_1",), {1: 2})  # type: ignore[dict-item]
