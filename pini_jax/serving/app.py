"""The four addresses of a server.

| address         | answers                                                                                |
|-----------------|----------------------------------------------------------------------------------------|
| `GET /`         | the page                                                                               |
| `POST /predict` | `{"rows": [...]}`, a row for every image, as `pini predict` writes it                  |
| `GET /health`   | what is served, and whether it takes requests                                          |
| `GET /metrics`  | counters for Prometheus                                                                |

What is not answered has `{"error": reason}` and a status that says of which kind the reason is.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from pini_jax.core.errors import InputError
from pini_jax.serving import page
from pini_jax.serving.batching import Batching
from pini_jax.serving.bodies import Photo, read_photos
from pini_jax.serving.measures import Measures
from pini_jax.serving.refusal import Limits, Refusal
from pini_jax.use import outputs
from pini_jax.use.classifier import Answer, TrainedClassifier
from pini_jax.use.outputs import Columns, Row

DEFAULT = Limits()
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
TEXT = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus


class Service:
    """A trained run that answers requests."""

    def __init__(self, trained: TrainedClassifier, mode: str, limits: Limits) -> None:
        self.trained, self.mode, self.limits, self.measures = trained, mode, limits, Measures()
        self.batching = Batching(trained, mode, limits, self.measures.batches.observe)
        self.measures.inside.set_function(lambda: self.batching.inside)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Runs the batching for as long as the server lives."""
        running = asyncio.create_task(self.batching.run())
        yield
        running.cancel()
        self.batching.close()

    async def predict(self, request: Request) -> Response:
        """Rows for the photos of a request; all that happens to it is counted."""
        start = time.perf_counter()
        try:
            response = await self._predict(request)
        except Refusal as refusal:
            response = refused(refusal.status, str(refusal))
        except ClientDisconnect:  # nobody reads it
            response = refused(400, "the request was cut off")
        self.measures.seconds.observe(time.perf_counter() - start)
        self.measures.requests.labels(response.status_code).inc()
        return response

    async def _predict(self, request: Request) -> Response:
        topk = parse_topk(request.query_params.get("topk", "1"))
        photos = await read_photos(request, self.limits)
        answers = await self.batching.answer_all(photos)
        columns = outputs.columns_of(self.trained, self.mode, topk)
        rows = [_row(photo, answer, columns) for photo, answer in zip(photos, answers, strict=True)]
        refusals = [answer for answer in answers if isinstance(answer, Refusal)]
        self.measures.images.inc(len(answers) - len(refusals))
        if len(refusals) == len(answers):
            return refused(refusals[0].status, str(refusals[0]), rows=rows)
        return JSONResponse({"rows": rows}, headers=HEADERS)

    async def health(self, request: Request) -> Response:
        """Describes what is served."""
        config, doubt = self.trained.config, self.trained.doubt(self.mode)
        said: dict[str, Any] = {
            "status": "ok",
            "run": self.trained.fingerprint,
            "clip": config.clip,
            "method": config.method,
        }
        said |= {"mode": self.mode, "classes": len(self.trained.class_names), "held_out": doubt.images}
        return JSONResponse(said | {"limits": self.limits._asdict()}, headers=HEADERS)

    async def metrics(self, request: Request) -> Response:
        """The counters, for Prometheus."""
        return Response(self.measures.text(), media_type=TEXT, headers=HEADERS)


def _row(photo: Photo, answer: Answer | Refusal, columns: Columns) -> Row:
    found = InputError(str(answer)) if isinstance(answer, Refusal) else answer
    return outputs.make_row(photo.name, found, columns)


def parse_topk(text: str) -> int:
    """How many classes a row lists; 0 for all.

    Raises:
        Refusal: it is no number.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        raise Refusal(400, "topk must be a whole number, 0 for all classes")
    return int(text)


def refused(status: int, reason: str, **more: Any) -> JSONResponse:
    """A reason in JSON; whatever else the request holds is not read."""
    headers = HEADERS | {"Connection": "close"} | ({"Retry-After": "1"} if status in (429, 503) else {})
    return JSONResponse({"error": reason, **more}, status, headers)


async def front_page(request: Request) -> Response:
    """The page in HTML."""
    return HTMLResponse(page.HTML, headers=HEADERS | {"Content-Security-Policy": page.POLICY})


async def unknown(request: Request, error: Exception) -> Response:
    """The response for unknown addresses."""
    assert isinstance(error, HTTPException)
    return refused(error.status_code, f"{request.method} {request.url.path}: {error.detail}"[:200])


async def failed(request: Request, error: Exception) -> Response:
    """The response to an internal error, whose cause is in the server's log."""
    return refused(HTTPStatus.INTERNAL_SERVER_ERROR, "the server could not answer: its log says why")


def make_app(trained: TrainedClassifier, mode: str = "mean", limits: Limits = DEFAULT) -> Starlette:
    """The application that uvicorn runs.

    Raises:
        InputError: the run was trained on features, and reads no images.
    """
    service = Service(trained, mode, limits)
    service.batching.warm()
    routes = [
        Route("/", front_page),
        Route("/predict", service.predict, methods=["POST"]),
        Route("/health", service.health),
        Route("/metrics", service.metrics),
    ]
    handlers: Any = {HTTPException: unknown, Exception: failed}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=service.lifespan)
