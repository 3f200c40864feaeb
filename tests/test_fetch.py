"""Downloads: continued, checked, unpacked safely, and renamed into place only when whole."""

import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from minilm.config import UserError
from minilm.corpora import fetch as module
from minilm.corpora.fetch import SOURCES, Source, fetch

TEXT = bytes(range(65, 91)) * 1000


def tar_of(**members: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zip_of(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


@pytest.fixture
def server():
    """A server of `server.file`; it can ignore ranges, cut the answer short, or send errors."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.headers.get("Range"))
            start = 0
            if server.ranges and (wanted := self.headers.get("Range")):
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            status = 206 if start else 200
            self.send_response(416 if start >= len(server.file) else server.status or status)
            self.send_header("Content-Type", server.kind)
            self.send_header("Content-Length", str(len(server.file) - start))
            self.end_headers()
            self.wfile.write(server.file[start : server.cut])

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.file, server.kind, server.cut, server.status = TEXT, "text/plain", None, None
    server.ranges, server.asked = True, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def serve(server, monkeypatch):
    """Put a file on the server, and a source for it under the name "imdb"."""

    def put(file: bytes, name="input.txt", holds="input.txt", hashed=True, lines=None) -> None:
        server.file = file
        url = f"http://127.0.0.1:{server.server_port}/{name}"
        sha256 = hashlib.sha256(file).hexdigest() if hashed else None
        size = len(file) if hashed else None
        monkeypatch.setitem(SOURCES, "imdb", Source(url, name, holds, size, sha256, lines))

    return put


def error_of_fetching(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        fetch("imdb", folder)
    message = str(caught.value)
    assert "\n" not in message
    source = SOURCES["imdb"]
    assert source.url in message and str(folder / "imdb" / source.file) in message
    assert not (folder / "imdb" / source.holds).exists()
    return message


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "imdb").iterdir())


@pytest.mark.parametrize(
    "name, holds, file, options",
    [
        ("input.txt", "input.txt", TEXT, {}),
        ("a.tar.gz", "aclImdb", tar_of(**{"aclImdb/train/pos/0_9.txt": b"good"}), {}),
        ("a.zip", "Spam", zip_of(Spam=b"a\nb\n", readme=b""), {"hashed": False, "lines": 2}),
    ],
)
def test_a_corpus_arrives_whole_and_leaves_nothing_beside_it(
    tmp_path, serve, server, capsys, name, holds, file, options
):
    serve(file, name, holds, **options)
    fetch("imdb", tmp_path)
    assert names_in(tmp_path) == [holds]
    assert ("2 lines counted" if options else "sha256 right") in capsys.readouterr().out
    fetch("imdb", tmp_path)
    assert len(server.asked) == 1 and "there already" in capsys.readouterr().out


def test_what_lies_in_an_archive_keeps_its_place(tmp_path, serve):
    serve(tar_of(**{"aclImdb/train/pos/0_9.txt": b"good"}), "a.tar.gz", "aclImdb")
    fetch("imdb", tmp_path)
    assert (tmp_path / "imdb/aclImdb/train/pos/0_9.txt").read_bytes() == b"good"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_download_is_continued(tmp_path, serve, server, ranges):
    serve(TEXT)
    server.cut, server.ranges = 10_000, ranges
    message = error_of_fetching(tmp_path)
    assert "cut after 10,000 of 26,000 bytes" in message and "python -m minilm fetch" in message
    assert names_in(tmp_path) == ["input.txt.part"]
    server.cut = None
    fetch("imdb", tmp_path)
    assert server.asked == [None, "bytes=10000-"]
    assert (tmp_path / "imdb" / "input.txt").read_bytes() == TEXT


def test_a_part_longer_than_the_file_is_thrown_away(tmp_path, serve, server):
    serve(zip_of(Spam=b"a\n"), "a.zip", "Spam", hashed=False, lines=1)
    (tmp_path / "imdb").mkdir()
    (tmp_path / "imdb" / "a.zip.part").write_bytes(b"x" * 999)
    assert "416" in error_of_fetching(tmp_path)
    fetch("imdb", tmp_path)
    assert server.asked == ["bytes=999-", None] and names_in(tmp_path) == ["Spam"]


@pytest.mark.parametrize("length", [26_000, 9_000])
def test_a_file_with_the_wrong_hash_is_thrown_away(tmp_path, serve, server, length):
    serve(TEXT)
    server.file = b"x" * length
    assert f"{length:,} bytes with sha256" in error_of_fetching(tmp_path)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    "setting, words",
    [
        ({"status": 404}, "404"),
        ({"status": 503}, "503"),
        ({"kind": "text/html; charset=utf-8"}, "a web page in place of the file"),
    ],
)
def test_an_answer_that_is_no_file_is_told_from_one(tmp_path, serve, server, setting, words):
    serve(TEXT)
    vars(server).update(setting)
    assert words in error_of_fetching(tmp_path)
    assert names_in(tmp_path) == []


def test_a_server_that_is_not_there_gets_one_line(tmp_path, serve, monkeypatch):
    serve(TEXT)
    gone = Source("http://127.0.0.1:1/input.txt", "input.txt", "input.txt", 1, "0" * 64)
    monkeypatch.setitem(SOURCES, "imdb", gone)
    assert "refused" in error_of_fetching(tmp_path)


OUTSIDE = "../../outside.txt"


@pytest.mark.parametrize(
    "name, holds, file, words",
    [
        ("a.tar.gz", "aclImdb", tar_of(**{"aclImdb/a": b"", OUTSIDE: b"!"}), "outside"),
        ("a.tar.gz", "aclImdb", tar_of(**{"other/a": b""}), "holds no aclImdb"),
        ("a.tar.gz", "aclImdb", b"no archive at all", "could not be opened"),
        ("a.tar.gz", "aclImdb", tar_of(**{"aclImdb/a": TEXT})[:-40], "end"),
        ("a.zip", "Spam", zip_of(readme=b""), "holds no Spam"),
        ("a.zip", "Spam", zip_of(Spam=b"a\n"), "has 1 lines in place of 2"),
        ("a.zip", "Spam", b"no archive at all", "not a zip file"),
    ],
)
def test_a_bad_archive_puts_nothing_anywhere(tmp_path, serve, name, holds, file, words):
    serve(file, name, holds, hashed=False, lines=2)
    folder = tmp_path / "a" / "b" / "data"
    assert words in error_of_fetching(folder)
    assert names_in(folder) == []
    assert not list(tmp_path.rglob("outside.txt"))


def test_a_file_put_there_by_hand_is_used_and_kept(tmp_path, serve, server):
    serve(zip_of(Spam=b"a\n"), "a.zip", "Spam", hashed=False, lines=1)
    (tmp_path / "imdb").mkdir()
    (tmp_path / "imdb" / "a.zip").write_bytes(server.file)
    fetch("imdb", tmp_path)
    assert server.asked == [] and names_in(tmp_path) == ["Spam", "a.zip"]


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="choose from imdb, sms-spam, tinyshakespeare"):
        fetch("mnist", tmp_path)


def test_every_source_can_be_checked():
    for source in module.SOURCES.values():
        assert source.url.startswith("https://") and source.url.endswith(source.file)
        assert (source.size and source.sha256) or source.lines
