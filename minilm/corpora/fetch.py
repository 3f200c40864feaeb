"""Download the corpora that are too large, or not ours, to come along.

A file is downloaded beside its place, continued if it was cut, checked, unpacked, checked again,
and only then renamed into place: what lies in data/NAME is whole.
"""

import hashlib
import http.client
import os
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from minilm.config import UserError


@dataclass(frozen=True)
class Source:
    """Where a corpus comes from, and how its file is recognised."""

    url: str
    file: str  # the name under which the download is kept in data/NAME
    holds: str  # the file or folder wanted; the download itself where nothing is to be unpacked
    size: int | None = None  # bytes
    sha256: str | None = None  # known together with the size, or not at all
    lines: int | None = None  # of the file wanted, where the download's hash is not known


SOURCES = {
    "imdb": Source(
        url="https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
        file="aclImdb_v1.tar.gz",
        holds="aclImdb",
        size=84_125_825,
        sha256="c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
    ),
    "sms-spam": Source(
        url="https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip",
        file="sms+spam+collection.zip",
        holds="SMSSpamCollection",
        lines=5_574,
    ),
    "tinyshakespeare": Source(
        url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        file="input.txt",
        holds="input.txt",
        size=1_115_394,
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}


def fetch(name: str, folder: Path = Path("data")) -> None:
    """Put the corpus `name` into folder/name, unless it is there already.

    A download that was put there by hand is checked and unpacked as if it had just arrived.
    Raises UserError naming the URL and the place for the file, whatever goes wrong.
    """
    if name not in SOURCES:
        raise UserError(f"fetch {name}: no such corpus to fetch: choose from {', '.join(SOURCES)}")
    source, folder = SOURCES[name], Path(folder) / name
    wanted, by_hand = folder / source.holds, folder / source.file
    if wanted.exists():
        print(f"{wanted} is there already")
        return
    part = folder / (source.file + ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if by_hand.exists():
            _put_in_place(by_hand, wanted, source)
        else:
            _download(source, part)
            try:
                _put_in_place(part, wanted, source)
            except _DAMAGE:
                part.unlink(missing_ok=True)  # never continue from something wrong
                raise
            part.unlink(missing_ok=True)
    except _UNFIT as error:
        reason = str(error).replace("\n", " ") or type(error).__name__
        raise UserError(
            f"{source.url}: {reason}. Try `python -m minilm fetch {name}` again, or download the "
            f"file by hand, put it at {by_hand} and run the same command"
        ) from None
    checked = f"{source.lines:,} lines counted, no hash known" if source.lines else "sha256 right"
    print(f"{wanted} is ready ({checked})")


class _Damaged(Exception):
    """The download is not what it should be."""


_DAMAGE = (_Damaged, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile)
# OSError covers refused and broken connections, HTTP errors, and a full disk.
_UNFIT = (*_DAMAGE, OSError, http.client.HTTPException)


def _download(source: Source, part: Path) -> None:
    """Download into `part`, after what an earlier attempt has left there (HTTP Range, RFC 9110)."""
    have = part.stat().st_size if part.exists() else 0
    if source.size and have >= source.size:
        return  # whole, or too long, which the check will find
    request = urllib.request.Request(source.url, headers={"User-Agent": "minilm"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with _open(request, part) as response:
        if response.headers.get_content_type() == "text/html":
            raise _Damaged("the server answered with a web page in place of the file")
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0  # the server starts from the beginning
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else source.size
        bar = tqdm(None, source.file, total, initial=have, unit="B", unit_scale=True, disable=None)
        with bar, part.open("ab" if have else "wb") as file:
            while data := response.read(1 << 16):
                file.write(data)
                bar.update(len(data))
    have = part.stat().st_size
    if total and have < total:
        raise _Damaged(f"the connection was cut after {have:,} of {total:,} bytes, which are kept")


def _open(request: urllib.request.Request, part: Path):
    try:
        return urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()  # longer than the file on the server: another version of it
        raise


def _put_in_place(download: Path, wanted: Path, source: Source) -> None:
    """Check a download, unpack it, and rename what it holds to `wanted`."""
    with download.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if source.sha256 and digest != source.sha256:
        raise _Damaged(
            f"not the file expected: {download.stat().st_size:,} bytes with sha256 "
            f"{digest[:12]}... in place of {source.size:,} with {source.sha256[:12]}..."
        )
    if source.file == source.holds:
        os.replace(download, wanted)
        return
    with tempfile.TemporaryDirectory(dir=wanted.parent, prefix="unpacking-") as folder:
        _unpack(download, Path(folder), source)
        os.replace(Path(folder) / source.holds, wanted)


def _unpack(archive: Path, folder: Path, source: Source) -> None:
    if source.file.endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            if source.holds not in opened.namelist():
                raise _Damaged(f"{source.file} holds no {source.holds}")
            opened.extract(source.holds, folder)  # this one name leads nowhere else
    else:
        with tarfile.open(archive) as opened:
            for member in tqdm(opened, f"unpacking {source.file}", unit=" files", disable=None):
                opened.extract(member, folder, filter="data")  # refuses paths that lead outside
    found = folder / source.holds
    if not found.exists():
        raise _Damaged(f"{source.file} holds no {source.holds}")
    if source.lines:
        lines = sum(bool(line.strip()) for line in found.read_bytes().split(b"\n"))
        if lines != source.lines:
            raise _Damaged(f"{source.holds} has {lines:,} lines in place of {source.lines:,}")
