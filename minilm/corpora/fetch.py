"""Download the corpora that are too large, or not ours, to come along.

A file is downloaded beside its place, checked, unpacked, and only then renamed into place: what
lies in data/NAME is whole.
"""

import os
import shutil
import tempfile
import urllib.request
import zipfile
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from minilm.config import UserError
from minilm.io.durable import sha256_of

MOST = 2**24  # bytes of a download whose size nobody says, and of what a .zip holds


class Source(NamedTuple):
    """A file to download, and how it is recognised."""

    url: str
    holds: str  # the file or folder wanted; the download's own name where nothing is packed
    size: int | None = None
    sha256: str | None = None


_GITHUB = "https://raw.githubusercontent.com/"
_WNUT17 = {"train.conll": "wnut17train.conll", "dev.conll": "emerging.dev.conll",
           "test.conll": "emerging.test.annotated"}  # fmt: skip
_MULTI30K = [f"{part}.{language}.gz" for part in ("train", "val", "test_2016_flickr")
             for language in ("en", "de")]  # fmt: skip
SOURCES: dict[str, list[Source]] = {
    "imdb": [Source(
        "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz", "aclImdb", 84_125_825,
        "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
    )],
    "sms-spam": [Source(
        "https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip",
        "SMSSpamCollection",
    )],
    "tinyshakespeare": [Source(
        _GITHUB + "karpathy/char-rnn/master/data/tinyshakespeare/input.txt", "input.txt",
        1_115_394, "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    )],
    "wnut17": [Source(_GITHUB + "leondz/emerging_entities_17/master/" + name, part)
               for part, name in _WNUT17.items()],
    "multi30k": [Source(_GITHUB + "multi30k/dataset/master/data/task1/raw/" + name, name)
                 for name in _MULTI30K],
}  # fmt: skip


def fetch(name: str, folder: Path = Path("data")) -> None:
    """Put the corpus `name` into folder/name, unless it is there already. A download that was put
    there by hand is checked and unpacked as if it had just arrived. Raises UserError naming the URL
    and the place for the file, whatever goes wrong."""
    if name not in SOURCES:
        raise UserError(f"fetch {name}: no such corpus to fetch: choose from {', '.join(SOURCES)}")
    for source in SOURCES[name]:
        wanted = folder / name / source.holds
        by_hand = wanted.with_name(source.url.rpartition("/")[2])
        if wanted.exists():
            print(f"{wanted} is there already")
            continue
        try:
            wanted.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=wanted.parent, prefix="fetch-") as beside:
                found = by_hand if by_hand.exists() else Path(beside, by_hand.name)
                if found != by_hand:
                    _download(source, found)
                if source.sha256 not in (None, digest := sha256_of(found)):
                    raise ValueError(f"its sha256 is {digest}, not the right one")
                os.replace(_unpacked(found, Path(beside), source), wanted)
        except Exception as error:  # of the network, of an archive, of the disk
            reason = str(error).replace("\n", " ") or type(error).__name__
            raise UserError(f"{source.url}: {reason}. Try again, or download the file by hand, put "
                            f"it at {by_hand} and run the same command") from None  # fmt: skip
        print(f"{wanted} is ready")


def _download(source: Source, path: Path) -> None:
    request = urllib.request.Request(source.url, headers={"User-Agent": "minilm"})
    with urllib.request.urlopen(request, timeout=60) as response, path.open("wb") as file:
        if response.headers.get_content_type() == "text/html":
            raise ValueError("the server answered with a web page in place of the file")
        most, size = source.size or MOST, source.size
        size = size or int(response.headers.get("Content-Length", 0))
        with tqdm.wrapattr(response, "read", size, desc=path.name, disable=None) as body:
            while file.tell() <= most and (data := body.read(2**16)):
                file.write(data)
        if file.tell() > most or size not in (0, file.tell()):
            raise ValueError(f"{file.tell():,} bytes came, not {size or most:,}")


def _unpacked(archive: Path, folder: Path, source: Source) -> Path:
    """What the archive holds of the source; a file that is no archive as it is."""
    found = archive
    if archive.name.endswith((".zip", ".tar.gz")):
        print(f"unpacking {archive}", flush=True)
        safely = {"filter": "data"}  # names that lead outside are refused, as a zip's always are
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as packed:
                safely, size = {}, sum(file.file_size for file in packed.filelist)
            if size > MOST:
                raise ValueError(f"{archive.name} holds {size:,} bytes, more than {MOST:,}")
        shutil.unpack_archive(archive, folder, **safely)
        found = folder / source.holds
    if not found.exists():
        raise ValueError(f"{archive.name} holds no {source.holds}")
    return found
