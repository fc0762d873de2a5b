"""A server answers as `pini predict` does, and refuses what is too much or no image, with a reason."""

import base64
import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("httpx2", reason="needs the extra test")
from starlette.testclient import TestClient  # noqa: E402

from pini_jax.data.datasets import digits  # noqa: E402
from pini_jax.data.datasets.records import Record  # noqa: E402
from pini_jax.serving.app import make_app  # noqa: E402
from pini_jax.serving.refusal import Limits  # noqa: E402
from pini_jax.use import classifier, outputs  # noqa: E402

PICTURES = [record.source for record in digits.load_digits().test[:5]]
LIMITS = Limits(bytes=200_000, pixels=10_000, queue=8, seconds=60)


@pytest.fixture(scope="module")
def trained(fitted_run):
    return classifier.load_classifier(fitted_run)


@pytest.fixture(scope="module")
def client(trained):
    with TestClient(make_app(trained, limits=LIMITS)) as made:
        yield made


def picture(size, kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", size, "navy").save(file, kind)
    return file.getvalue()


def bomb():
    """A PNG of few bytes that claims 60,000 x 60,000 pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b""))]
    parts = [struct.pack(">I", len(x)) + kind + x + struct.pack(">I", zlib.crc32(kind + x)) for kind, x in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def files(*contents):
    return [("file", (f"{i}.png", content)) for i, content in enumerate(contents)]


def in_json(*contents):
    images = [{"name": f"{i}.png", "data": base64.b64encode(x).decode()} for i, x in enumerate(contents)]
    return {"images": images}


@pytest.mark.parametrize("topk", [0, 1, 2])
def test_rows_are_those_of_predict(client, trained, topk):
    rows = client.post(f"/predict?topk={topk}", files=files(*PICTURES)).json()["rows"]
    numbered = ((i, Record(f"{i}.png", picture, -1)) for i, picture in enumerate(PICTURES))
    columns = outputs.columns_of(trained, "mean", topk)
    for row, (_, record, answer) in zip(rows, trained.classify_all(numbered), strict=True):
        expected = outputs.make_row(record.id, answer, columns)
        assert row.keys() == expected.keys() and {"unsure", "plausible"} < row.keys()
        for key in {"probability", "probabilities"} & row.keys():
            np.testing.assert_allclose(row.pop(key), expected.pop(key), atol=1e-6)
        assert row == expected
    assert client.post(f"/predict?topk={topk}", json=in_json(*PICTURES)).json()["rows"][0]["path"] == "0.png"


def test_draws_are_numbered_within_a_request(trained):
    with TestClient(make_app(trained, "sample", LIMITS)) as client:
        rows = client.post("/predict", files=files(*PICTURES)).json()["rows"]
    np.testing.assert_allclose(
        [row["probability"] for row in rows], trained(PICTURES, "sample").max(-1), atol=1e-6
    )


def test_nothing_is_compiled_after_the_start(client, trained, monkeypatch):
    import jax

    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    for number in (1, 3, 8):
        assert client.post("/predict", files=files(*PICTURES[:1] * number)).status_code == 200
    assert not compiled


REFUSED = {
    "bytes": (413, "may have 200,000 bytes", {"files": files(b"x" * 300_000)}),
    "photos": (413, "may have 8 photos", {"files": files(*PICTURES[:1] * 9)}),
    "photos in JSON": (413, "may have 8 photos", {"json": in_json(*PICTURES[:1] * 9)}),
    "pixels": (413, "an image may have 10,000 pixels, not 200 x 200", {"files": files(picture((200, 200)))}),
    "bomb": (413, "decompression bomb", {"files": files(bomb())}),
    "no image": (415, "image 0.png cannot be read", {"files": files(b"GIF89a, or not")}),
    "empty image": (415, "image 0.png cannot be read", {"files": files(b"")}),
    "cut image": (415, "image 0.png cannot be read", {"files": files(picture((90, 90))[:100])}),
    "PDF": (415, "image 0.png cannot be read", {"files": files(b"%PDF-1.7\n1 0 obj")}),
    "type": (415, "send multipart/form-data or application/json, not text/plain", {"content": b"hello"}),
    "no type": (415, "not nothing", {"content": b"hello", "headers": {"Content-Type": ""}}),
    "no photo": (400, "no photo", {"json": {"images": []}}),
    "no JSON": (400, "must be like", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
    "deep JSON": (400, "must be like", {"content": b"[" * 9999, "headers": {"Content-Type": "application/json"}}),
    "a list": (400, "must be like", {"json": [1]}),
    "names": (400, "must be like", {"json": {"images": [{"name": 3, "data": ""}]}}),
    "data": (400, "must be like", {"json": {"images": [{"data": 3}]}}),
    "base64": (400, "are no base64", {"json": {"images": [{"name": "a", "data": "?"}]}}),
    "no boundary": (400, "oundary", {"content": b"--", "headers": {"Content-Type": "multipart/form-data"}}),
    "cut form": (
        400,
        "cut off",
        {
            "content": b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\nhalf',
            "headers": {"Content-Type": "multipart/form-data; boundary=x"},
        },
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(client, name):
    status, reason, request = REFUSED[name]
    headers = {"Content-Type": "text/plain"} if name == "type" else {}
    response = client.post("/predict", **({"headers": headers} | request))
    assert (response.status_code, reason in response.json()["error"]) == (status, True), response.text
    assert client.post("/predict", files=files(PICTURES[0])).status_code == 200


@pytest.mark.parametrize("topk", ["-1", "x", "²", "9" * 30, ""])
def test_topk_is_a_number(client, topk):
    response = client.post("/predict", params={"topk": topk}, files=files(PICTURES[0]))
    assert response.status_code == 400 and "topk" in response.json()["error"]


def test_one_bad_photo_does_not_spoil_the_others(client):
    response = client.post("/predict", files=files(PICTURES[0], b"no picture"))
    good, bad = response.json()["rows"]
    assert response.status_code == 200 and good["error"] is None
    assert bad["class"] is None and "cannot be read" in bad["error"]


def test_addresses(client):
    assert client.get("/health").json()["classes"] == 3
    assert 'pini_requests_total{status="200"}' in client.get("/metrics").text
    assert client.get("/predict").status_code == 405 and client.get("/nothing").json()["error"]
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http-equiv", "")


def test_a_full_queue_is_429(trained):
    app = make_app(trained, limits=LIMITS)
    with TestClient(app) as client:
        service = app.routes[1].endpoint.__self__
        service.batching.inside = LIMITS.queue
        response = client.post("/predict", files=files(PICTURES[0]))
        assert response.status_code == 429 and response.headers["retry-after"] == "1"
        service.batching.inside = 0
        assert client.post("/predict", files=files(PICTURES[0])).status_code == 200
        assert service.batching.inside == 0


def test_no_answer_in_time_is_503(trained, monkeypatch):
    app = make_app(trained, limits=LIMITS._replace(seconds=0.2))
    with TestClient(app) as client:
        service = app.routes[1].endpoint.__self__
        service.batching._waiting.put_nowait = lambda waiting: None  # it is never classified
        response = client.post("/predict", files=files(PICTURES[0]))
        assert response.status_code == 503 and "within 0.2 seconds" in response.json()["error"]
        assert service.batching.inside == 0


def test_a_failing_tower_fails_its_requests_alone(trained, monkeypatch):
    app = make_app(trained, limits=LIMITS)
    with TestClient(app, raise_server_exceptions=False) as client:
        with monkeypatch.context() as patch:
            patch.setattr(classifier.TrainedClassifier, "_classify", lambda *_: 1 / 0)
            response = client.post("/predict", files=files(PICTURES[0]))
            assert response.status_code == 500 and "log" in json.loads(response.text)["error"]
        assert client.post("/predict", files=files(PICTURES[0])).status_code == 200
