"""A server in a process of its own: slow senders, cut bodies, the end by a signal, and the page in a browser."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("uvicorn", reason="needs the extra serve")

from pini_jax.data.datasets import digits  # noqa: E402

PICTURES = [record.source for record in digits.load_digits().test[:3]]
SECONDS = 3  # the limit of the server


@contextmanager
def serving(fitted_run, *words):
    """The process, and its port."""
    command = [sys.executable, "-m", "pini_jax.cli", "serve", f"--workdir={fitted_run}", "--port=0", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield process, int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)\n", line)[1])
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def port(fitted_run):
    with serving(fitted_run, f"--seconds={SECONDS}", "--bytes=1000000") as (_, found):
        yield found


def post(port, content, kind="multipart/form-data; boundary=x"):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", content, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def form(*pictures):
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    return b"".join(head + picture + b"\r\n" for picture in pictures) + b"--x--\r\n"


def head(length):
    kind = "Content-Type: multipart/form-data; boundary=x"
    return f"POST /predict HTTP/1.1\r\nHost: x\r\n{kind}\r\nContent-Length: {length}\r\n\r\n".encode()


def connect(port, content):
    made = socket.create_connection(("127.0.0.1", port), timeout=300)
    made.sendall(content)
    return made


def everything(connection):
    """What is received until the other side closes."""
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_same_class_as_predict(port, fitted_run):
    from pini_jax.use import classifier

    status, said = post(port, form(*PICTURES))
    trained = classifier.load_classifier(fitted_run)
    assert status == 200
    expected = [trained.class_names[i] for i in trained(PICTURES).argmax(-1)]
    assert [row["class"] for row in said["rows"]] == expected


@pytest.mark.parametrize(
    "content, answer",
    [
        (b"POST /pre", b""),  # headers that do not end
        (head(100) + b"half", b"HTTP/1.1 408"),  # a body that does not
        (b"GET /health HTTP/1.1\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", b"HTTP/1.1 400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b""),  # TLS
        (head(10**12), b"HTTP/1.1 413"),
    ],
)
def test_hostile_connections_end(port, content, answer):
    try:
        received = everything(connect(port, content))
    except ConnectionError:  # closed while we were still sending
        received = answer
    assert received.startswith(answer)
    assert post(port, form(PICTURES[0]))[0] == 200


def test_a_cut_body_harms_nobody(port):
    connect(port, head(10_000) + b"half").close()
    assert post(port, form(PICTURES[0]))[0] == 200


def test_a_signal_ends_it_after_what_was_begun(fitted_run):
    with serving(fitted_run, "--seconds=60") as (process, port):
        content = form(PICTURES[0])
        begun = connect(port, head(len(content)) + content[:50])
        idle = connect(port, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(12) == b"HTTP/1.1 200"  # the server has seen the first one too
        process.send_signal(signal.SIGTERM)
        while accepts(port):
            pass
        begun.sendall(content[50:])
        assert begun.recv(12) == b"HTTP/1.1 200"
        assert process.wait(timeout=300) == 0
        assert process.stderr.read() == ""


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionError:
        return False
    return True


def test_many_at_once(port):
    found = []
    threads = [threading.Thread(target=lambda: found.append(post(port, form(PICTURES[0]))[0])) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) <= {200, 503} and 200 in found


# ------------------------------------------------------------------------------------------------ the browser


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra test")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as started:
        # In a container Chromium cannot make its sandbox; it opens our page alone.
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def photos(tmp_path):
    for i, picture in enumerate(PICTURES):
        (tmp_path / f"{i}.png").write_bytes(picture)
    Image.new("RGB", (30, 60), "red").save(tmp_path / "tall.jpg")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    return sorted(tmp_path.iterdir())


@pytest.mark.parametrize("size", [(1280, 800), (360, 740)], ids=["desktop", "phone"])
def test_the_page(fitted_run, browser, photos, size):
    with serving(fitted_run) as (_, port):  # with the time limit that people have
        page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        page.set_default_timeout(120_000)
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if "policy" in said.text.lower() else None)
        page.goto(f"http://127.0.0.1:{port}/")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "photos", "the keyboard reaches it first"
        page.get_by_label("Choose photos").set_input_files(photos)
        page.get_by_text("5 photos answered").wait_for()
        assert page.locator(".card").count() == 5 and page.locator(".card h2").count() == 4
        assert (
            page.locator(".wrong").inner_text()
            == "image broken.png cannot be read (no kind of image that PIL knows)"
        )
        assert page.locator(".card li i").count() == 4 * 3, "a bar for every class"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
            "nothing is wider than the page"
        )
        assert not problems
        if folder := os.environ.get("PINI_SCREENSHOTS"):
            page.screenshot(path=Path(folder) / f"serve-{size[0]}.png", full_page=True)
        page.close()
