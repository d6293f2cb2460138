"""The contents of files as they are: sound, pictures, tables and text, read into payloads."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from stat import S_ISDIR
from typing import Any, BinaryIO

import numpy as np
from lotdb import DataNode, DataObject, DataWriter, PathFileObj

__all__ = ["SOURCE", "attach_content", "is_changed", "is_gone", "place_before"]

#: What soundfile reads so that it can be told whether a file was cut off, by suffixes. WAV files are read without it.
SOUNDS = frozenset(["aif", "aifc", "aiff", "au", "flac", "mp3", "oga", "ogg", "opus", "rf64", "snd", "w64"])
#: The dtypes of samples that need no rounding, by kinds that soundfile tells; of all others, 32-bit floats.
_INTEGERS = {"PCM_S8": "int16", "PCM_U8": "int16", "PCM_16": "int16", "ALAW": "int16", "ULAW": "int16"}
_DTYPES = {**_INTEGERS, "PCM_24": "int32", "PCM_32": "int32", "DOUBLE": "float64"}
_CUT_OFF = "it was cut off, or its header is wrong"
#: Where a payload says what it was read from.
SOURCE = "ingested_from"

#: From this size on, a WAV header of a program that wrote to a pipe says that it did not know the size: what sox writes
#: there; others write more, or 0.
UNKNOWN_SIZE = 0x7FFFF000


def attach_content(
    node: DataNode, file: Path, attribute: str, *, backend: str, samplerate_hz: float | None, database: Any
) -> None:
    """Attach the content of a file as lotdb's `attach_file` does, but for what that would change.

    Raises:
        ValueError: The file can't be read as it is; says why.
        Exception: What the packages that read such files raise.
    """
    kind = file.suffix.lstrip(".").lower()
    source = _source(file, samplerate_hz)
    options = {"data_attribute": attribute, "backend": backend, "database": database}
    source_rate = None
    if kind == "wav" or kind in SOUNDS:
        source_rate, samples = _sound(file) if kind == "wav" else _other_sound(file)
        samplerate_hz = source_rate if samplerate_hz is None else samplerate_hz
        DataWriter.write_array(node, samples, samplerate_hz=samplerate_hz, content_type=f"audio/{kind}", **options)
    elif kind in ("png", "jpg", "jpeg"):
        mode, pixels = _picture(file)
        options |= {"metadata": {"image_mode": mode}, "content_type": f"image/{'png' if kind == 'png' else 'jpeg'}"}
        DataWriter.write_array(node, pixels, samplerate_hz=samplerate_hz, **options)
    elif kind == "csv":
        columns, data = _table(file)
        table = DataObject(
            backend="blob", metadata={"text_encoding": "utf-8", "columns": columns}, content_type="text/csv"
        )
        table.write_blob_bytes(data, payload_kind="table")
        node.set_attribute(attribute, table)
    elif kind == "txt":
        DataWriter.write_text(node, file.read_bytes().decode(), data_attribute=attribute)
    else:
        DataWriter.attach_file(node, str(file), samplerate_hz=samplerate_hz, **options)
    node.get_attribute(attribute).set_metadata(SOURCE, source)
    node.set_attribute("_source_filepath", PathFileObj(filepath=str(file)))
    node.set_attribute("_source_format", kind)
    node.set_attribute("_source_filename", file.name)
    if source_rate is not None:
        node.set_attribute("_source_samplerate_hz", source_rate)


def is_changed(stored: Any, file: Path, samplerate_hz: float | None) -> bool:
    """Whether a payload was read from a file that has another size or time of modification since, or another rate."""
    source = stored.get_metadata(SOURCE) if isinstance(stored, DataObject) else None
    return isinstance(source, tuple) and source[0] == str(file) and source != _source(file, samplerate_hz)


def place_before(stored: Any, file: Path) -> tuple[Any, ...] | None:
    """Where a payload says that it was read from, if that was this very file, which has another place now.

    It has the same name, size and time of modification, and there is none at its place of before.
    """
    source = stored.get_metadata(SOURCE) if isinstance(stored, DataObject) else None
    if not isinstance(source, tuple) or len(source) != 4 or source[0] == str(file):
        return None
    is_same = os.path.basename(source[0]) == file.name and source[1:3] == _source(file, None)[1:3]
    return source if is_same and is_gone(source[0]) else None


def is_gone(name: str) -> bool:
    """Whether there is no file of this name; what can't be told counts as there."""
    try:
        return S_ISDIR(os.lstat(name).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False


def _source(file: Path, samplerate_hz: float | None) -> tuple[Any, ...]:
    """What tells that a file is the one that was read, and that it was read in the same way."""
    try:
        status = os.stat(file)
    except OSError:
        return (str(file),)
    rate = None if samplerate_hz is None else float(samplerate_hz)
    return str(file), status.st_size, status.st_mtime_ns, rate


# --- Sound ----------------------------------------------------------------------------------------------------------


def _check_not_empty(file: Path) -> None:
    if file.stat().st_size == 0:  # of which some packages say that it does not exist
        raise ValueError("the file is empty")


def _sound(file: Path) -> tuple[float, np.ndarray[Any, Any]]:
    """The samples per second of a WAV file, and the samples, time first, then channels."""
    from scipy.io import wavfile

    _check_not_empty(file)
    with file.open("rb") as opened:
        sizes = _sizes(opened)
        should_be, is_there = _length(opened)
    source: Any = file
    if sizes:
        content = bytearray(file.read_bytes())
        for place, size in sizes.items():
            content[place : place + 4] = size
        source = io.BytesIO(content)
    try:
        try:
            rate, samples = wavfile.read(source)
        except ValueError as error:
            if not str(error).startswith(("Unknown wave file format", "Unsupported bit depth")):
                raise
            return _compressed_sound(source, error)
        if len(samples) == 0:
            raise ValueError("it has no samples")
    except Exception as error:
        if not sizes and is_there < should_be:
            raise ValueError(f"it was cut off: it has {is_there:,} of {should_be:,} bytes") from error
        if isinstance(error, (struct.error, wavfile.WavFileWarning)):
            raise ValueError(_CUT_OFF) from error
        raise
    return float(rate), samples.reshape(len(samples), -1)


def _compressed_sound(source: Any, refused: ValueError) -> tuple[float, np.ndarray[Any, Any]]:
    """What is in a WAV file of a kind that scipy refuses: mu-law, A-law, ADPCM, GSM."""
    try:
        import soundfile
    except ImportError:
        raise ValueError(f'{refused}; soundfile may read it: pip install "lotproc[files]"') from refused
    if isinstance(source, io.BytesIO):
        source.seek(0)
    with soundfile.SoundFile(source) as opened:
        return _samples(opened)


def _length(file: BinaryIO) -> tuple[int, int]:
    """How many bytes a WAV file has by its header, which is 12 of them, and how many there are."""
    there = os.fstat(file.fileno()).st_size
    file.seek(0)
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RIFX") or (head[8:] and not b"WAVE".startswith(head[8:])):
        return there, there  # of another kind
    order: Any = "little" if head[:4] == b"RIFF" else "big"
    return (8 + int.from_bytes(head[4:8], order) if len(head) >= 8 else 12), there


def _other_sound(file: Path) -> tuple[float, np.ndarray[Any, Any]]:
    """The samples per second of any other file of sound, and the samples, as those of WAV files are."""
    import soundfile

    _check_not_empty(file)
    with soundfile.SoundFile(file) as opened:
        expected, form = len(opened), opened.format
        is_estimate = form == "MP3" and not _tells_length(file)
        rate, samples = _samples(opened, is_estimate=is_estimate)
    if is_estimate and len(samples) == expected:  # behind which nothing is read
        raise ValueError("its header does not tell its length, so it can't be read to its end; write it anew")
    if form == "OGG" and not _ends(file):
        raise ValueError(_CUT_OFF)
    return rate, samples


def _samples(opened: Any, *, is_estimate: bool = False) -> tuple[float, np.ndarray[Any, Any]]:
    """The samples per second of an open file of sound, and all samples, which are as many as it says."""
    frames = -1 if opened.seekable() else len(opened)  # of GSM, say
    samples = opened.read(frames, dtype=_DTYPES.get(opened.subtype, "float32"), always_2d=True)
    if len(samples) == 0:
        raise ValueError("it has no samples")
    if not is_estimate and (len(samples) < len(opened) or "(should be" in opened.extra_info):
        raise ValueError(_CUT_OFF)
    return float(opened.samplerate), samples


def _tells_length(file: Path) -> bool:
    """Whether the first frame of an MP3 file is one that tells how many there are."""
    with file.open("rb") as opened:
        head = opened.read(10)
        is_tagged = head[:3] == b"ID3" and len(head) == 10
        size = sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True)) if is_tagged else -10
        opened.seek(10 + size)
        first = opened.read(200)
    return b"Xing" in first or b"Info" in first


def _ends(file: Path) -> bool:
    """Whether the last page of an Ogg file says that it is the last."""
    with file.open("rb") as opened:
        opened.seek(max(0, os.fstat(opened.fileno()).st_size - 2 * 65_307))  # a page is no longer
        data = opened.read()
    last = data.rfind(b"OggS\0")
    return last >= 0 and len(data) > last + 5 and bool(data[last + 5] & 4)


def _sizes(file: BinaryIO) -> dict[int, bytes]:
    """What the sizes in the header of a WAV file should be, by their places, where a pipe left them unknown.

    Raises:
        ValueError: The header contradicts itself, so that its samples would be read as others.
    """
    whole = os.fstat(file.fileno()).st_size
    riff, said, wave = _unpacked(file, "4sI4s", "<") or (b"", 0, b"")
    if riff not in (b"RIFF", b"RIFX") or wave != b"WAVE":
        return {}  # of another kind; scipy knows some, and names the others
    order = "<" if riff == b"RIFF" else ">"
    (said,) = struct.unpack(f"{order}I", struct.pack("<I", said))
    is_open = said == 0 or (said >= UNKNOWN_SIZE and 8 + said > whole)
    found, frame = None, 1
    place = 12
    while place < (whole if is_open else 8 + said):
        file.seek(place)
        name, size = _unpacked(file, "4sI", order) or (b"", 0)
        start = place + 8
        if not name:
            break
        if name == b"fmt ":
            frame = _frame(file, order)
        elif name == b"data":
            if found is not None:
                raise ValueError("it has two chunks of sound, where WAV files have one")
            found = start
            is_unknown = (size >= UNKNOWN_SIZE and start + size > whole) or (
                size == 0 and (is_open or start >= 8 + said) and start < whole
            )
            if is_open or is_unknown:
                there = whole - start if is_unknown else min(size, whole - start)
                there -= there % frame
                return {4: struct.pack(f"{order}I", start + there - 8), place + 4: struct.pack(f"{order}I", there)}
        place = start + size + size % 2
    return {}


def _frame(file: BinaryIO, order: str) -> int:
    """The bytes of a sample of all channels, from the format in a WAV header."""
    form = _unpacked(file, "HHIIHH", order)
    if form is None:
        return 1  # it was cut off, as scipy will say
    tag, channels, rate, _, frame, bits = form
    if tag not in (1, 3, 0xFFFE):
        return 1  # compressed, which scipy refuses by name
    if 0 in (channels, rate, bits):
        raise ValueError(f"its header says {channels} channels, {rate} samples per second and {bits} bits per sample")
    # 17 bits and more may lie in 4 bytes.
    if frame != channels * -(-bits // 8) and (bits <= 16 or frame != 4 * channels):
        raise ValueError(f"its header says {frame} bytes for {channels} channels of {bits} bits")
    return int(frame)


def _unpacked(file: BinaryIO, form: str, order: str) -> tuple[Any, ...] | None:
    """The next values of a file; `None` where it ends."""
    data = file.read(struct.calcsize(order + form))
    return struct.unpack(order + form, data) if len(data) == struct.calcsize(order + form) else None


# --- Pictures, and tables -------------------------------------------------------------------------------------------


def _picture(file: Path) -> tuple[str, np.ndarray[Any, Any]]:
    """The mode of a picture, as Pillow names it, and its pixels: colours, not numbers of colours in a palette."""
    from PIL import Image

    image: Image.Image
    with Image.open(file) as image:
        if image.format == "PNG" and not image.mode.startswith("I") and _png_bits(file) == 16:
            raise ValueError("it has 16 bits for each of its channels, of which Pillow reads 8")
        if image.mode in ("P", "PA"):
            is_clear = image.mode == "PA" or "transparency" in image.info
            image = image.convert("RGBA" if is_clear else "RGB")
        return image.mode, np.asarray(image)


def _png_bits(file: Path) -> int:
    with file.open("rb") as opened:
        return opened.read(25)[24]


def _table(file: Path) -> tuple[list[Any], bytes]:
    """The columns of a CSV file, and the file as it is."""
    import pandas

    data = file.read_bytes()
    text = data.decode()
    # Refuses a first row that is longer than the header: pandas would take its first fields for the row's name.
    pandas.read_csv(io.StringIO(text), header=None, nrows=2)
    return list(pandas.read_csv(io.StringIO(text)).columns), data
