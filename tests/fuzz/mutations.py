"""Seeded damage to files: of bytes, of words, of JSON values and inside archives.

Checksums stop nearly all damage to the bytes of an archive, so its entries are changed and packed
again as often. The same bytes and generator give the same damage.
"""

import copy
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import torch
from pyarrow import parquet

NASTY_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 2**70, 10**400, 0.5, 1e308, -1e308,
    1e-320,
    float("nan"), float("inf"), -float("inf"), "", " ", "\0", "NaN", "1", "-1", "1e999", "٣", "²",
    "é\ud800",
    "../../x", "/", ".", "x" * 5000, "9" * 5000, [], {}, [[]], [None], {"": None},
)  # fmt: skip
NASTY_WORDS = (
    b"", b"null", b"NaN", b"nan", b"inf", b"-inf", b"0", b"-0", b"-1", b"1", b"1.5", b"1e999",
    b"1e308",
    b"%d" % 2**31, b"%d" % 2**63, b"%d" % 2**70, b"9" * 5000, b"0x10", b"1_0", "٣".encode(),
    "²".encode(),
    b"true", b"None", b"..", b"../../x", b"/", b"a" * 200_000, b"\0", b"\xff", b'"', b"'", b",",
    b"\t", b"\n",
    b"\r", b"<a/>", b"</", b"&#0;", b"&x;", b"]]>", b"{", b"[", b"}", b"]", b"\xef\xbb\xbf",
    b" " * 3000,
)  # fmt: skip
NASTY_BYTES = (b"\0", b"\xff", b"\x7f", b"\x80", b"\0" * 8, b"\xff" * 8, b"\xff\xff\xff\x7f")
ENCODINGS = ("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp037", "latin-1", "utf-7")
WORD = re.compile(rb"[\w.+-]+|[^\w\s]")
DEPTHS = (500, 100_000)


class Damage(NamedTuple):
    """What became of a file."""

    content: bytes
    how: str


Rng = np.random.Generator


def damage(content: bytes, rng: Rng) -> Damage:
    """Change a file in one way, or in a few."""
    how = []
    for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
        ways: list[Callable[[bytes, Rng], Damage | None]] = [in_bytes]
        if content.startswith(b"PK\x03\x04"):
            ways += [in_zip, in_zip, in_torch]
        elif content.startswith(b"\x93NUMPY"):
            ways += [in_array, in_array]
        elif content.startswith(b"PAR1"):
            ways += [in_parquet, in_parquet]
        elif content[257:262] == b"ustar":
            ways += [in_tar, in_tar]
        elif content[8:9] == b"{":
            ways += [in_safetensors, in_safetensors]
        elif is_text(content):
            ways += [in_words, in_lines, in_json, in_json, in_encoding]
        way = ways[rng.integers(len(ways))]
        done = way(content, rng) or in_bytes(content, rng)
        content = done.content
        how.append(done.how)
    return Damage(content, ", then ".join(how))


def is_text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


def in_bytes(content: bytes, rng: Rng) -> Damage:
    """Flip a bit, cut, or remove, repeat, insert or overwrite some bytes; rather near the ends."""
    size = len(content)
    start = place(size, rng)
    end = min(size, start + int(rng.choice([1, 4, 16, 200, 5000])))
    piece = content[start:end]
    nasty = NASTY_BYTES[rng.integers(len(NASTY_BYTES))]
    flipped = bytes([piece[0] ^ 1 << int(rng.integers(8))]) if piece else b"\0"
    ways = {
        "flipped a bit": content[:start] + flipped + content[start + 1 :],
        "cut": content[:start],
        "removed": content[:start] + content[end:],
        "repeated": content[:end] + piece + content[end:],
        "inserted noise": content[:start] + rng.bytes(8) + content[start:],
        "overwrote with noise": content[:start] + rng.bytes(4) + content[start + 4 :],
        "overwrote": content[:start] + nasty + content[start + len(nasty) :],
        "swapped halves": content[start:] + content[:start],
        "moved": content[:start] + content[end:] + piece,
    }
    name = list(ways)[rng.integers(len(ways))]
    return Damage(ways[name], f"{name} at {start}-{end} of {size} bytes")


def place(size: int, rng: Rng) -> int:
    """A position in so many bytes: near the start, near the end or anywhere."""
    if size == 0:
        return 0
    near = int(rng.integers(min(400, size)))
    return (near, size - 1 - near, int(rng.integers(size)))[rng.integers(3)]


def in_words(content: bytes, rng: Rng) -> Damage | None:
    """Put something nasty, or another word of the file, in the place of a word."""
    words = list(WORD.finditer(content))
    if not words:
        return None
    word, other = (words[index] for index in rng.integers(len(words), size=2))
    choices = [NASTY_WORDS[rng.integers(len(NASTY_WORDS))], other[0]]
    new = choices[rng.integers(4) // 3]
    how = f"word {word[0][:40]!r} at {word.start()} became {new[:40]!r}"
    return Damage(content[: word.start()] + new + content[word.end() :], how)


def in_lines(content: bytes, rng: Rng) -> Damage | None:
    """Remove, repeat, empty, lengthen or move a line."""
    lines = content.split(b"\n")
    row, other = rng.integers(len(lines), size=2).tolist()
    line = lines.pop(row)
    ways = {
        "removed": [],
        "repeated": [line, line],
        "emptied": [b""],
        "shortened": [b",".join(line.split(b",")[:-1]) or line.rpartition(b" ")[0]],
        "lengthened": [line + b",1 2"],
        "quoted": [b'"' + line],
    }
    name = [*ways, "moved"][rng.integers(len(ways) + 1)]
    if name == "moved":
        lines.insert(other, line)
    else:
        lines[row:row] = ways[name]
    return Damage(b"\n".join(lines), f"{name} line {row + 1}")


def in_encoding(content: bytes, rng: Rng) -> Damage | None:
    """Write text in another encoding."""
    encoding = ENCODINGS[rng.integers(len(ENCODINGS))]
    return Damage(content.decode().encode(encoding, "replace"), f"encoded as {encoding}")


def in_json(content: bytes, rng: Rng) -> Damage | None:
    """Change a value or a key of JSON, or nest a value deep."""
    try:
        root = [json.loads(content)]
    except (ValueError, RecursionError):
        return None
    how, depth = alter(root, rng)
    text = "".join(map(json.dumps, root)).replace('"NESTED"', "[" * depth + "]" * depth)
    return Damage(text.encode(), how)


def alter(root: list[Any], rng: Rng) -> tuple[str, int]:
    """Change something below ``root``; also says how deep "NESTED" stands for."""
    holders = list(containers(root))
    holder = holders[rng.integers(len(holders))]
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    key = keys[rng.integers(len(keys))]
    old = f"{key}: {repr(holder[key])[:60]}"
    kind = str(rng.choice(["removed", "renamed", "nested", "replaced", "nasty", "nasty"]))
    depth = 0
    if kind == "removed":
        del holder[key]
    elif kind == "renamed" and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif kind == "nested":
        depth = int(rng.choice(DEPTHS))
        holder[key] = "NESTED"
    elif kind == "replaced":
        holder[key] = copy.deepcopy(holders[rng.integers(len(holders))])
    else:
        holder[key] = NASTY_VALUES[rng.integers(len(NASTY_VALUES))]
        kind = f"became {repr(holder[key])[:40]}"
    return f"{old} {kind} {depth or ''}", depth


def containers(node: Any) -> Iterator[Any]:
    """All lists and dicts that hold something, at any depth."""
    if isinstance(node, dict | list):
        if node:
            yield node
        for below in node.values() if isinstance(node, dict) else node:
            yield from containers(below)


def in_zip(content: bytes, rng: Rng) -> Damage | None:
    """Change an entry of a zip archive, or leave one out, and pack it again."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:  # damaged already
        return None
    entries, how = changed(entries, rng)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries:
            archive.writestr(name or "x", data)
    return Damage(buffer.getvalue(), how)


def in_tar(content: bytes, rng: Rng) -> Damage | None:
    """Change an entry of a tar archive, or leave one out, and pack it again."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            files = [(each.name, archive.extractfile(each)) for each in archive]
            entries = [(name, file.read()) for name, file in files if file is not None]
    except Exception:  # damaged already
        return None
    entries, how = changed(entries, rng)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in entries:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return Damage(buffer.getvalue(), how)


def changed(entries: list[tuple[str, bytes]], rng: Rng) -> tuple[list[tuple[str, bytes]], str]:
    if not entries:
        return entries, "an archive of nothing"
    index = int(rng.integers(len(entries)))
    name, data = entries.pop(index)
    kind = int(rng.integers(10))
    if kind == 0:
        return entries, f"left {name} out"
    if kind == 1:
        new = name[: place(len(name), rng)] + str(rng.choice(["x", "../x", "", "é", "/", "a" * 90]))
        return [*entries, (new, data)], f"{name} renamed {new}"
    done = damage(data, rng)
    entries.insert(index, (name, done.content))
    return entries, f"{name}: {done.how}"


def in_array(content: bytes, rng: Rng) -> Damage | None:
    """Put an array of other values, type or shape in the place of numpy's."""
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception:  # damaged already
        return None
    filled = array.copy()
    if filled.size and filled.dtype.kind in "iuf":
        extreme = np.iinfo(filled.dtype) if filled.dtype.kind in "iu" else np.finfo(filled.dtype)
        nan = np.nan if filled.dtype.kind == "f" else extreme.max
        filled.flat[rng.integers(filled.size)] = rng.choice([extreme.min, extreme.max, nan, 0])
    others = [
        filled,
        array[:-1] if array.ndim else array[None],
        array[None],
        array.ravel(),
        array[:0] if array.ndim else array,
        np.concatenate([array, array]) if array.ndim else array,
        array.astype("U") if array.dtype.kind in "iufb" else array,
        np.zeros(array.shape, rng.choice(["f2", "c16", "?", "u8", "M8[s]", "S3", "V4"])),
    ]
    other = others[rng.integers(len(others))]
    buffer = io.BytesIO()
    np.save(buffer, other, allow_pickle=False)
    return Damage(
        buffer.getvalue(), f"{array.dtype}{array.shape} became {other.dtype}{other.shape}"
    )


def in_parquet(content: bytes, rng: Rng) -> Damage | None:
    """Put other values in the place of a column, or change its name."""
    try:
        table = parquet.read_table(io.BytesIO(content))
    except Exception:  # damaged already
        return None
    if not table.num_columns:
        return None
    index = int(rng.integers(table.num_columns))
    name, rows = table.column_names[index], table.num_rows
    fillings: list[Any] = [
        None, "x", "", b"\xff", 2**62, -1, float("nan"), float("inf"), True, [], [1.0], [None],
        {"a": 1},
        np.datetime64(1, "s"), ["x"], "9" * 5000,
    ]  # fmt: skip
    filling = fillings[rng.integers(len(fillings))]
    values = [filling if rng.random() < 0.7 else None for _ in range(rows)]
    name = str(rng.choice([name, name, name, "x", table.column_names[0]]))
    table = table.set_column(index, name, pyarrow.array(values))
    buffer = io.BytesIO()
    parquet.write_table(table[: rng.integers(rows + 1)] if rng.random() < 0.2 else table, buffer)
    return Damage(buffer.getvalue(), f"column {index} became {name}: {str(values)[:60]}")


def in_torch(content: bytes, rng: Rng) -> Damage | None:
    """Change a value or a name of a checkpoint."""
    try:
        root = [torch.load(io.BytesIO(content), weights_only=True)]
    except Exception:  # another kind of archive, or damaged already
        return None
    how, _ = alter(root, rng)
    buffer = io.BytesIO()
    torch.save(root[0] if root else None, buffer)
    return Damage(buffer.getvalue(), how)


def in_safetensors(content: bytes, rng: Rng) -> Damage | None:
    """Change the JSON at the start of a safetensors file and say its length anew."""
    size = int.from_bytes(content[:8], "little")
    done = (in_json, in_words)[rng.integers(2)](content[8 : 8 + size], rng)
    if done is None:
        return None
    start = len(done.content).to_bytes(8, "little") + done.content
    return Damage(start + content[8 + size :], f"header: {done.how}")
