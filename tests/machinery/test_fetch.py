"""Downloads: checked, unpacked safely, and renamed into place only when whole."""

import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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
def server(monkeypatch):
    """A server of one file; `put` makes it the corpus "imdb"."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked += 1
            self.send_response(server.status)
            self.send_header("Content-Type", server.kind)
            self.send_header("Content-Length", str(len(server.file)))
            self.end_headers()
            self.wfile.write(server.file[: server.cut])

        def log_message(self, *arguments):
            pass

    def put(file, name="input.txt", holds="input.txt", hashed=True):
        server.file = file
        known = (len(file), hashlib.sha256(file).hexdigest()) if hashed else (None, None)
        url = f"http://127.0.0.1:{server.server_port}/{name}"
        monkeypatch.setitem(SOURCES, "imdb", [Source(url, holds, *known)])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    vars(server).update(kind="text/plain", cut=None, status=200, asked=0, put=put)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


PACKED = tar_of(**{"aclImdb/train/pos/0_9.txt": b"good"})
GOOD = [
    (TEXT, "other.name", "input.txt", "input.txt"),
    (PACKED, "a.tar.gz", "aclImdb", "aclImdb/train/pos/0_9.txt"),
    (zip_of(Spam=b"a\nb\n", x=b""), "a.zip", "Spam", "Spam"),
]


@pytest.mark.parametrize("file, name, holds, inside", GOOD)
def test_a_corpus_arrives_whole_once_and_by_hand(tmp_path, server, file, name, holds, inside):
    server.put(file, name, holds, hashed=name != "a.zip")
    for folder in (tmp_path / "net", tmp_path / "hand"):
        if folder.name == "hand":
            (folder / "imdb").mkdir(parents=True)
            (folder / "imdb" / name).write_bytes(file)
        fetch("imdb", folder)
        fetch("imdb", folder)
        assert (folder / "imdb" / inside).stat().st_size in (len(TEXT), 4)
    assert server.asked == 1 and [p.name for p in (tmp_path / "net" / "imdb").iterdir()] == [holds]


BAD = [  # the file and its source; what the server does; what is said
    ((TEXT,), dict(status=404), "404"),
    ((TEXT,), dict(kind="text/html; charset=utf-8"), "a web page in place of the file"),
    ((TEXT,), dict(cut=10_000), "10,000 bytes came, not 26,000"),
    ((TEXT, "a.txt", "a.txt", False), dict(cut=9), "9 bytes came"),
    ((TEXT,), dict(file=b"x" * 26_000), "its sha256 is"),
    ((TEXT,), dict(file=TEXT * 9), "65,536 bytes came, not 26,000"),
    ((tar_of(**{"aclImdb/a": b"", "../../out.txt": b"!"}), "a.tar.gz", "aclImdb"), {}, "outside"),
    ((tar_of(**{"other/a": b""}), "a.tar.gz", "aclImdb"), {}, "holds no aclImdb"),
    ((PACKED[:-40], "a.tar.gz", "aclImdb"), {}, "end"),
    ((b"none", "a.zip", "Spam"), {}, "not a zip file"),
    ((zip_of(Spam=b"a" * 5000), "a.zip", "Spam"), {}, "holds 5,000 bytes, more than 4,096"),
]


@pytest.mark.parametrize("source, behaviour, words", BAD)
def test_what_goes_wrong_is_one_line_and_leaves_nothing(
    tmp_path, server, monkeypatch, source, behaviour, words
):
    monkeypatch.setattr(module, "MOST", 4096)
    server.put(*source)
    vars(server).update(behaviour)
    with pytest.raises(UserError) as caught:
        fetch("imdb", tmp_path / "a" / "b")
    message = str(caught.value)
    assert words in message and "\n" not in message and SOURCES["imdb"][0].url in message
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
