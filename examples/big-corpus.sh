#!/usr/bin/env bash
# Builds a corpus of 100 MB and more of English from Debian packages: what `specs/llama-60m.toml` trains on.
#
#     examples/big-corpus.sh [DIR]        # default: data/big-corpus
#
# Makes in DIR
#     corpus.jsonl     passages of a few paragraphs, each once: {"text": …, "source": PACKAGE}
#     sources.tsv      packages with version, passages and bytes
#     tokenizer.json   byte-level BPE of 32,000 entries, trained on what is not held out
#     train/ validation/   token shards; 0.5 % of the passages are held out, chosen by their text
#
# Needs a Debian or a system derived from it (apt-get download, dpkg-deb), python3, colac, and 1 GB of disk; no root.
# Packages that are not there are named and left out; `apt-get update` as root makes the newest ones known. The texts are under the licences of their packages, several of
# them copyleft: use them, do not commit them.
#
# COLAC names the program (default: colac, or cargo run --release in the repository), MINIMUM_MB the least that is
# accepted (default: 60).
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${1:-data/big-corpus}
minimum=${MINIMUM_MB:-60}
mkdir -p "$out"
out=$(cd "$out" && pwd)

fail() {
    echo "big-corpus.sh: $*" >&2
    exit 1
}

for program in apt-get apt-cache dpkg-deb python3; do
    command -v "$program" >/dev/null || fail "$program is not there; this script needs a Debian system with python3"
done

if [ -n "${COLAC:-}" ]; then
    colac() { "$COLAC" "$@"; }
elif command -v colac >/dev/null; then
    colac() { command colac "$@"; }
else
    command -v cargo >/dev/null || fail "no colac: install it, or name the program by COLAC"
    colac() { cargo run --quiet --release --locked --manifest-path "$repository/Cargo.toml" -- "$@"; }
fi

# The newest package whose name is this pattern with a version in it.
newest() {
    apt-cache search --names-only "$1" | cut -d' ' -f1 | sort -V | tail -n 1
}

packages=(
    dict-gcide
    "$(newest '^linux-doc-[0-9.]+$')"
    anarchism
    "$(newest '^python3\.[0-9]+-doc$')"
    perl-doc
    git-doc
    dict-foldoc
    fortunes
    wordnet-base
    r-cran-janeaustenr
)

work=$out/packages
mkdir -p "$work"
missing=()
: >"$work/versions.tsv"
for package in "${packages[@]}"; do
    [ -n "$package" ] || { missing+=("a package of this kind"); continue; }
    target=$work/$package
    if [ ! -d "$target" ]; then
        rm -rf "$work/download"
        mkdir "$work/download"
        if ! (cd "$work/download" && apt-get download -q -o APT::Sandbox::User=root "$package" >log 2>&1); then
            missing+=("$package")
            continue
        fi
        dpkg-deb -x "$work/download"/*.deb "$work/download/files"
        dpkg-deb -f "$work/download"/*.deb Version >"$work/download/files/version"
        mv "$work/download/files" "$target"
        rm -rf "$work/download"
    fi
    printf '%s\t%s\n' "$package" "$(cat "$target/version")" >>"$work/versions.tsv"
    echo "$package $(cat "$target/version")"
done
for package in "${missing[@]}"; do
    echo "big-corpus.sh: left out, because it cannot be downloaded: $package (try apt-get update)" >&2
done

python3 - "$work" "$out" "$minimum" "$repository/examples/corpus/make.py" <<'PYTHON'
"""Passages of the unpacked packages, each once, as JSON Lines."""
import collections
import glob
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile

work, out, minimum, austen = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]

# A passage ends with the paragraph that brings it to this many characters: about a row of 256 tokens.
PASSAGE = 900
LONGEST = 1800


def read(path):
    with open(path, "rb") as file:
        data = file.read()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def files(package, *patterns):
    found = set()
    for pattern in patterns:
        found.update(glob.glob(os.path.join(work, package, pattern), recursive=True))
    return sorted(path for path in found if os.path.isfile(path) and not os.path.islink(path))


def passages(text):
    """Paragraphs joined to passages; a paragraph that is too long is cut between lines."""
    current, size = [], 0
    for paragraph in re.split(r"\n\s*\n", text.replace("\r\n", "\n").replace("\t", "    ")):
        lines = paragraph.rstrip().split("\n")
        pieces, piece, length = [], [], 0
        for line in lines:
            piece.append(line.rstrip())
            length += len(line)
            if length > LONGEST:
                pieces.append("\n".join(piece))
                piece, length = [], 0
        if piece:
            pieces.append("\n".join(piece))
        for piece in pieces:
            if not piece.strip():
                continue
            current.append(piece)
            size += len(piece)
            if size >= PASSAGE:
                yield "\n\n".join(current)
                current, size = [], 0
    if current:
        yield "\n\n".join(current)


def dictionary(package, name):
    for path in files(package, f"usr/share/dictd/{name}.dict.dz"):
        yield read(path)


def wordnet(package):
    for path in files(package, "usr/share/wordnet/data.*"):
        entries = []
        for line in read(path).splitlines():
            head, bar, gloss = line.partition(" | ")
            fields = head.split()
            if not bar or len(fields) < 5 or not fields[0].isdigit():
                continue
            words = [fields[4 + 2 * i].replace("_", " ") for i in range(int(fields[3], 16))]
            entries.append(", ".join(words) + ": " + gloss.strip())
        yield "\n\n".join(entries)


def novels(package):
    for path in files(package, "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"):
        with tempfile.TemporaryDirectory() as folder:
            script = os.path.join(folder, "make.py")
            with open(austen) as source, open(script, "w") as copy:
                copy.write(source.read())
            for part in ("train", "validation"):
                os.mkdir(os.path.join(folder, part))
            subprocess.run([sys.executable, script, path], check=True, stdout=subprocess.DEVNULL)
            for novel in sorted(glob.glob(os.path.join(folder, "*", "*.txt"))):
                yield read(novel)


def texts(package):
    if package == "dict-gcide":
        yield from dictionary(package, "gcide")
    elif package == "dict-foldoc":
        yield from dictionary(package, "foldoc")
    elif package == "wordnet-base":
        yield from wordnet(package)
    elif package == "r-cran-janeaustenr":
        yield from novels(package)
    elif package == "fortunes":
        for path in files(package, "usr/share/games/fortunes/*"):
            if not path.endswith((".dat", ".u8")):
                yield read(path).replace("\n%\n", "\n\n")
    else:
        patterns = {
            "linux-doc": ["usr/share/doc/**/*.rst.gz", "usr/share/doc/**/*.rst"],
            "anarchism": ["usr/share/doc/**/*.md.gz", "usr/share/doc/**/*.md"],
            "python3": ["usr/share/doc/**/_sources/**/*.txt", "usr/share/doc/**/_sources/**/*.txt.gz"],
            "perl-doc": ["usr/share/perl/**/*.pod"],
            "git-doc": ["usr/share/doc/**/*.txt", "usr/share/doc/**/*.txt.gz"],
        }
        for start, found in patterns.items():
            if package.startswith(start):
                for path in files(package, *found):
                    if "/translations/" not in path:
                        yield read(path)


seen = set()
table = []
total = 0
with open(os.path.join(out, "corpus.jsonl.partial"), "w", encoding="utf-8") as lines:
    for row in open(os.path.join(work, "versions.tsv"), encoding="utf-8"):
        package, version = row.rstrip("\n").split("\t")
        counts = collections.Counter()
        for text in texts(package):
            for passage in passages(text):
                digest = hashlib.blake2b(passage.encode(), digest_size=16).digest()
                if digest in seen:
                    counts["copies"] += 1
                    continue
                seen.add(digest)
                counts["passages"] += 1
                counts["bytes"] += len(passage.encode())
                lines.write(json.dumps({"text": passage, "source": package}, ensure_ascii=False) + "\n")
        total += counts["bytes"]
        table.append((package, version, counts["passages"], counts["bytes"], counts["copies"]))
        print(f"{package}: {counts['bytes'] / 1e6:.1f} MB in {counts['passages']} passages, {counts['copies']} copies left out")
        if not counts["passages"]:
            print(f"big-corpus.sh: {package} {version} has no text where it was looked for", file=sys.stderr)
if total < minimum * 1e6:
    sys.exit(f"big-corpus.sh: only {total / 1e6:.1f} MB of text; MINIMUM_MB={minimum:g} were asked for")
os.replace(os.path.join(out, "corpus.jsonl.partial"), os.path.join(out, "corpus.jsonl"))
with open(os.path.join(out, "sources.tsv"), "w", encoding="utf-8") as file:
    file.write("package\tversion\tpassages\tbytes\tcopies\n")
    for row in table:
        file.write("\t".join(map(str, row)) + "\n")
print(f"all: {total / 1e6:.1f} MB in {sum(row[2] for row in table)} passages")
PYTHON

colac data prepare "$out/corpus.jsonl" --train-bpe 32000 --dedup --validation-fraction 0.005 --overwrite -o "$out"
echo "next: colac train llama-60m    (from the folder in which data/big-corpus lies)"
