"""The live view over HTTP: one page, and a few JSON calls that its script makes. Nothing is read from a disk here.

An answer is the reply to its question, so a browser that hangs up has cancelled: no question outlives its asker.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Annotated, Any

import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from subcircuit.errors import Interrupted, ResourceError, SubcircuitError
from subcircuit.view.desk import Desk, Entry, Job, Waiting
from subcircuit.view.guard import Guard
from subcircuit.view.questions import Answer, Question

__all__ = ["HOST", "Asked", "app", "bound", "serve"]

HOST = "127.0.0.1"
GLANCE = 0.2  # seconds between looks at whether the browser is still there
PATIENCE = 2  # seconds that open requests have once the server is told to stop
CANCELLED, FULL, BAD = 409, 503, 422


class Asked(BaseModel):
    """A question over the wire."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: Question
    id: Annotated[str, Field(max_length=64)] = Field("", description="a name to cancel it by")
    remembered: bool = Field(True, description="put it into the history")


class Problem(BaseModel):
    """What every call answers that could not be done."""

    kind: str
    message: str
    cure: str


def app(desk: Desk, html: str, *, token: str, port: int) -> FastAPI:
    """The application: `html` below `/TOKEN/`, and its calls below `/TOKEN/api/`."""

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    made = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=life)
    made.include_router(_calls(desk, html), prefix=f"/{token}")
    made.add_exception_handler(SubcircuitError, _refused)
    made.add_exception_handler(RequestValidationError, _malformed)
    made.add_middleware(Guard, token=token, port=port)
    return made


def bound(port: int) -> socket.socket:
    """A socket on this machine's own address; port 0 takes a free one. Raises ResourceError when it is taken."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((HOST, port))
        found.listen(1)  # another server at this port fails now, not when a model has been loaded
    except OSError as error:
        found.close()
        message = f"port {port} cannot be used: {error.strerror}"
        raise ResourceError(message, "give another --port, or none for one that is free") from error
    return found


def serve(application: FastAPI, place: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    config = uvicorn.Config(
        application,
        log_level="warning",
        access_log=False,  # addresses hold the token
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=PATIENCE,
    )
    uvicorn.Server(config).run(sockets=[place])


def _calls(desk: Desk, html: str) -> APIRouter:
    calls = APIRouter()

    @calls.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        # the page has a policy of its own, which names the hash of its script
        return HTMLResponse(html, headers={"content-security-policy": "frame-ancestors 'none'"})

    @calls.post("/api/ask")
    async def ask(asked: Asked, request: Request) -> Answer:
        job = desk.submit(asked.question, name=asked.id, remembered=asked.remembered)
        return await _answered(desk, job, request)

    @calls.get("/api/queue")
    async def queue() -> list[Waiting]:
        return desk.waiting

    @calls.delete("/api/queue/{name}")
    async def cancel(name: str) -> bool:
        return desk.cancel(name)

    @calls.get("/api/history")
    async def history() -> list[Entry]:
        return desk.history

    return calls


async def _answered(desk: Desk, job: Job, request: Request) -> Answer:
    """The answer, or Interrupted when the question was cancelled or its browser has gone."""
    answer = asyncio.wrap_future(job.answer)
    try:
        while not answer.done():
            await asyncio.wait([answer], timeout=GLANCE)
            if not answer.done() and await request.is_disconnected():
                desk.cancel(job.id)
    finally:
        desk.cancel(job.id)
    if answer.cancelled():
        raise Interrupted("cancelled")
    return answer.result()


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SubcircuitError)
    code = CANCELLED if isinstance(error, Interrupted) else FULL if isinstance(error, ResourceError) else BAD
    return _problem(code, type(error).__name__, error.message, error.cure)


async def _malformed(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = dict(error.errors()[0])
    where = ".".join(str(part) for part in first["loc"][1:])
    return _problem(BAD, "UsageError", f"{where}: {first['msg']}", "see the documentation of the live view")


def _problem(code: int, kind: str, message: str, cure: str) -> JSONResponse:
    return JSONResponse(Problem(kind=kind, message=message, cure=cure).model_dump(), code)
