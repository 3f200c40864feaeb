"""A page as Chromium shows it, asked over DevTools' pipe: no port, no way to the network."""

import atexit
import contextlib
import functools
import json
import os
import shutil
import subprocess
import tempfile
import time

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe",
]  # fmt: skip


class Page:
    """An open page. `call` is a method of DevTools' protocol."""

    def __init__(self, send, receive):
        self.send, self.receive, self.session, self.calls = send, receive, {}, 0

    def call(self, method: str, **params) -> dict:
        self.calls += 1
        message = dict(id=self.calls, method=method, params=params, **self.session)
        os.write(self.send, json.dumps(message).encode() + b"\0")
        while True:
            answer = b""
            while not answer.endswith(b"\0"):
                answer += os.read(self.receive, 1)
            if (answer := json.loads(answer[:-1])).get("id") == self.calls:
                return answer.get("result", answer)

    def value(self, script: str):
        """What a script in the page comes to; of a promise, what it promises."""
        how = dict(returnByValue=True, awaitPromise=True)
        found = self.call("Runtime.evaluate", expression=script, **how)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")


@functools.cache
def started() -> Page:
    """A Chromium for all tests, which ends with them."""
    (to, send), (receive, back) = os.pipe(), os.pipe()
    profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    wired = f'exec "$@" 3<&{to} 4>&{back}'  # where DevTools reads and writes
    command = ["bash", "-c", wired, "-", CHROMIUM, *FLAGS, f"--user-data-dir={profile.name}"]
    process = subprocess.Popen(command, pass_fds=(to, back), stderr=subprocess.DEVNULL)
    os.close(to)
    os.close(back)
    page = Page(send, receive)

    @atexit.register
    def end() -> None:
        page.call("Browser.close")
        process.wait(30)
        profile.cleanup()

    return page


@contextlib.contextmanager
def opened(path):
    """Yield the Page of a file."""
    page = started()
    target = page.call("Target.createTarget", url="about:blank")["targetId"]
    try:
        session = page.call("Target.attachToTarget", targetId=target, flatten=True)
        page.session = dict(sessionId=session["sessionId"])
        page.call("Page.navigate", url=path.resolve().as_uri())
        while page.value("location.protocol + document.readyState") != "file:complete":
            time.sleep(0.02)
        yield page
    finally:
        page.session = {}
        page.call("Target.closeTarget", targetId=target)
