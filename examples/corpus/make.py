#!/usr/bin/env python3
"""Writes the plain texts of this corpus from the R package that carries Jane Austen's novels.

Usage (README.md beside this file says where the input comes from):

    python3 make.py path/to/janeaustenr/data/Rdata.rdb

The input is a lazy-load database of R: values one after the other, each a four-byte big-endian
length and a zlib stream of R's serialisation in its binary (XDR) form.
Every value is one novel as a character vector with one element per printed line.

Only the Python standard library is needed, and equal input gives equal files on every machine.
"""

import pathlib
import re
import struct
import sys
import zlib

# Title line of a novel -> the file it becomes. Persuasion is the text that training never sees.
FILES = {
    "EMMA": "train/emma.txt",
    "MANSFIELD PARK": "train/mansfield-park.txt",
    "NORTHANGER ABBEY": "train/northanger-abbey.txt",
    "PRIDE AND PREJUDICE": "train/pride-and-prejudice.txt",
    "SENSE AND SENSIBILITY": "train/sense-and-sensibility.txt",
    "PERSUASION": "validation/persuasion.txt",
}

# Paragraphs that modern editors added. They are not Austen's text, so they are left out.
EDITORIAL = re.compile(r"^\[(End volume|At this point in the)|^A NOTE ON THE TEXT$|\bSignet Classic\b")

# Indented lines are verse, letters and addresses. A line break among them was made by the printer's
# page width, and is undone, if the next line goes on in lower case or its first word would not have
# fitted into this many columns.
INDENTED_WIDTH = 60

STRING_VECTOR = 16  # STRSXP
STRING = 9  # CHARSXP, in the low byte of an element's flags


def values(database: bytes):
    """Yields the uncompressed values of a lazy-load database."""
    position = 0
    while position < len(database):
        (size,) = struct.unpack_from(">I", database, position)
        stream = zlib.decompressobj()
        value = stream.decompress(database[position + 4 :])
        if len(value) != size or not stream.eof:
            sys.exit(f"the value at byte {position} is damaged")
        position = len(database) - len(stream.unused_data)
        yield value


def character_vector(value: bytes) -> list[str]:
    """Parses one serialised character vector (format versions 2 and 3)."""
    if value[:2] != b"X\n":
        sys.exit("a value is not R's binary serialisation")
    (version,) = struct.unpack_from(">i", value, 2)
    position = 14  # format line, version of the format, of the writer and of the oldest reader
    if version == 3:
        (encoding_length,) = struct.unpack_from(">i", value, position)
        position += 4 + encoding_length
    kind, count = struct.unpack_from(">Ii", value, position)
    position += 8
    if kind & 0xFF != STRING_VECTOR:
        sys.exit("a value is not a character vector")
    lines = []
    for _ in range(count):
        flags, length = struct.unpack_from(">Ii", value, position)
        position += 8
        if flags & 0xFF != STRING or length < 0:
            sys.exit("an element is not a string")
        lines.append(value[position : position + length].decode("utf-8"))
        position += length
    return lines


def join(block: list[str]) -> str:
    """Joins the lines of one paragraph, and keeps the line breaks of verse and of signatures."""
    text = ""
    previous = ""
    for line in block:
        words = line.split()
        forced = words[0][0].islower() or len(previous.rstrip()) + 1 + len(words[0]) > INDENTED_WIDTH
        indented = line.startswith(" ") or previous.startswith(" ")
        if text:
            text += "\n" if indented and not forced else " "
        text += " ".join(words)
        previous = line
    return text


def paragraphs(lines: list[str]) -> list[str]:
    """Splits the printed lines at blank lines, joins every paragraph, leaves out editors' notes."""
    blocks, block = [], []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line)
        elif block:
            blocks.append(join(block))
            block = []
    return [text for text in blocks if not EDITORIAL.search(text)]


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(__file__).resolve().parent
    missing = dict(FILES)
    for value in values(pathlib.Path(sys.argv[1]).read_bytes()):
        novel = paragraphs(character_vector(value))
        target = folder / missing.pop(novel[0].upper())
        target.parent.mkdir(exist_ok=True)
        target.write_text("\n\n".join(novel) + "\n", encoding="utf-8", newline="\n")
        print(f"{target.relative_to(folder)}: {target.stat().st_size} bytes, {len(novel)} paragraphs")
    if missing:
        sys.exit(f"not in the database: {', '.join(missing)}")


if __name__ == "__main__":
    main()
