"""The photos of a request: files of a form, or base64 in JSON."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from pini_jax.core.wording import plain
from pini_jax.serving.refusal import Limits, Refusal

SHAPE = '{"images": [{"name": "a.jpg", "data": "... base64 ..."}]}'
FIELDS = 8  # of a form, beside its files


class Photo(NamedTuple):
    """An image file, and what it is called."""

    name: str
    content: bytes


async def read_photos(request: Request, limits: Limits) -> list[Photo]:
    """The photos of a request, in order.

    Raises:
        Refusal: it is too large or too slow, of another kind, damaged, or without photos.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in PARSERS:
        raise Refusal(415, f"send {' or '.join(PARSERS)}, not {plain(kind) or 'nothing'}")
    try:
        async with asyncio.timeout(limits.seconds):
            body = await read_body(request, limits.bytes)
    except TimeoutError:
        raise Refusal(408, f"the request did not arrive within {limits.seconds:g} seconds") from None
    photos = await PARSERS[kind](request, body, limits.queue)
    if not photos:
        raise Refusal(400, "there is no photo in the request")
    if len(photos) > limits.queue:
        raise too_many(limits.queue)
    return photos


async def read_body(request: Request, most: int) -> bytes:
    """All bytes of a request.

    Raises:
        Refusal: there are more than `most`.
    """
    refusal = Refusal(413, f"a request may have {most:,} bytes: send fewer photos at once, or smaller ones")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > most:
        raise refusal
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise refusal
    return bytes(body)


async def read_form(request: Request, body: bytes, most: int) -> list[Photo]:
    """The files of a form, whatever their fields are called."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    if not body.rstrip().endswith(b"--"):
        raise Refusal(400, "the form has no end: it was cut off")
    try:
        parser = MultiPartParser(request.headers, stream(), max_files=most, max_fields=FIELDS)
        form = await parser.parse()
    except MultiPartException as error:
        raise (too_many(most) if "many files" in error.message else Refusal(400, plain(error.message))) from None
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        return [Photo(file.filename or f"number {i}", await file.read()) for i, file in enumerate(files)]
    finally:
        await form.close()


async def read_json_body(request: Request, body: bytes, most: int) -> list[Photo]:
    """The images of a JSON object."""
    try:
        content = json.loads(body)
        return [_photo(entry, i) for i, entry in enumerate(content["images"])]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise Refusal(400, f"the JSON must be like {SHAPE}") from None


def _photo(entry: Any, number: int) -> Photo:
    name = entry.get("name", f"number {number}")
    if not isinstance(name, str):
        raise TypeError
    try:
        return Photo(name, base64.b64decode(entry["data"], validate=True))
    except binascii.Error:
        raise Refusal(400, f"the data of {plain(name)} are no base64") from None


def too_many(most: int) -> Refusal:
    """The refusal of a request with too many photos, which waiting would not help."""
    return Refusal(413, f"a request may have {most:,} photos")


PARSERS = {"multipart/form-data": read_form, "application/json": read_json_body}
