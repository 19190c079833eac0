"""Get fixed texts to tune and to score on: novels by Jane Austen, and technical prose.

    python examples/texts/fetch_texts.py build/texts

Debian packages carry them; `apt-get download` gets one without root, and nothing is installed.

    tuning.txt       Mansfield Park, Pride and Prejudice, Sense and Sensibility: for calibrate
    development.txt  Northanger Abbey: to choose settings on
    emma.txt         Emma: to score on
    policy.txt       the Debian Policy Manual: to score on, another kind of prose

The novels are in the public domain (package r-cran-janeaustenr, their Project Gutenberg texts); the
manual is under the GNU GPL. The novels are the same everywhere, which is checked; the manual is the
Debian release's, so its digest is printed.
"""

import argparse
import gzip
import hashlib
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

NOVELS = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
MANUAL = "usr/share/doc/debian-policy/policy.txt.gz"
FIRST_CHAPTER = "1. About this manual\n****"
TITLES = (
    "emma",
    "mansfield park",
    "northanger abbey",
    "persuasion",
    "pride and prejudice",
    "sense and sensibility",
)
SPLITS = {
    "tuning": ("mansfield park", "pride and prejudice", "sense and sensibility"),
    "development": ("northanger abbey",),
    "emma": ("emma",),
}
DIGESTS = {
    "tuning": "63b96206f79f882636eacd19af355192d7913e3d2aaf3b24271adec7a9c0c882",
    "development": "8618a5acf5be50cc6e9b7680c7469fb6012649ab08c709dfc63c6367989fd31d",
    "emma": "dd08b340a56ad4a0a00718d5682528a5a5886ae0aef91c9e0fa528074fa64b75",
}


def fetch(target: Path) -> Path:
    """Make the directory `target` with the texts, unless it is there already."""
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as work:
        novels = austen((package("r-cran-janeaustenr", Path(work)) / NOVELS).read_bytes())
        manual = gzip.decompress((package("debian-policy", Path(work)) / MANUAL).read_bytes())
        texts = {name: "\n\n".join(novels[t] for t in titles) for name, titles in SPLITS.items()}
        for name, text in texts.items():
            if digest(text) != DIGESTS[name]:
                raise SystemExit(f"fetch: {name} is not the text that figures were measured on")
        text = manual.decode()
        texts["policy"] = text[text.index(FIRST_CHAPTER) :]
        done = Path(work) / "texts"
        done.mkdir()
        for name, text in texts.items():
            (done / f"{name}.txt").write_text(text, encoding="utf-8")
        done.rename(target)
    return target


def package(name: str, work: Path) -> Path:
    """Download a Debian package and unpack it into a directory, which is returned."""
    folder = work / name
    folder.mkdir()
    subprocess.run(["apt-get", "--quiet=2", "download", name], cwd=folder, check=True)
    (archive,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "--extract", archive, folder / "content"], check=True)
    return folder / "content"


def austen(database: bytes) -> dict[str, str]:
    """The novels by title, from an R database: records of a length and a zlib stream each."""
    novels, position = {}, 0
    for title in TITLES:
        stream = zlib.decompressobj()
        record = stream.decompress(database[position + 4 :])
        position = len(database) - len(stream.unused_data)
        novels[title] = "\n".join(strings(record))
        if title not in novels[title][:80].lower():
            raise SystemExit(f"fetch: expected {title!r}, got {novels[title][:80]!r}")
    return novels


def strings(record: bytes) -> list[str]:
    """The strings of one R character vector in XDR serialisation, version 3."""
    (encoding,) = struct.unpack_from(">i", record, 14)
    position = 18 + encoding + 4  # past the encoding's name and the vector's flags
    (count,) = struct.unpack_from(">i", record, position)
    position += 4
    lines = []
    for _ in range(count):
        (length,) = struct.unpack_from(">i", record, position + 4)  # after the string's flags
        position += 8
        lines.append(record[position : position + length].decode())
        position += length
    return lines


def digest(text: str) -> str:
    """SHA-256, as `weightsmith perplexity` reports it."""
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("target", type=Path, help="the directory to make")
    for file in sorted(fetch(parser.parse_args().target).iterdir()):
        text = file.read_text(encoding="utf-8")
        print(f"{digest(text)}  {len(text):9}  {file}")
