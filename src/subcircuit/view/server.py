"""The live view over HTTP: one page, and a few JSON calls that its script makes. Nothing is read from a disk here.

Whatever a page is about, its questions take the same way; what else a page may call is given by whoever makes it.

An answer is the reply to its question, so a browser that hangs up has cancelled: no question outlives its asker.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Generic, TypeVar

import uvicorn
from fastapi import APIRouter, Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from subcircuit.errors import Interrupted, ResourceError, SubcircuitError
from subcircuit.view.desk import Desk, Entry, Job, Waiting
from subcircuit.view.guard import Guard
from subcircuit.view.questions import Asking, Part

__all__ = ["HOST", "Asked", "app", "bound", "serve"]

HOST = "127.0.0.1"
GLANCE = 0.2  # seconds between looks at whether the browser is still there
PATIENCE = 2  # seconds that open requests have once the server is told to stop
CANCELLED, FULL, BAD = 409, 503, 422
Q = TypeVar("Q", bound=Asking)
A = TypeVar("A", bound=Part)


class Asked(BaseModel, Generic[Q]):
    """A question over the wire."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: Q
    id: Annotated[str, Field(max_length=64)] = Field("", description="a name to cancel it by")
    remembered: bool = Field(True, description="put it into the history")


class Problem(BaseModel):
    """What every call answers that could not be done."""

    kind: str
    message: str
    cure: str


def app(desk: Desk[Q, A], html: Callable[[], str], *, token: str, port: int, more: APIRouter | None = None) -> FastAPI:
    """The application: what `html` gives below `/TOKEN/`, and the page's calls, with `more`, below `/TOKEN/api/`."""

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    made = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=life)
    made.include_router(_calls(desk, html), prefix=f"/{token}")
    if more is not None:
        made.include_router(more, prefix=f"/{token}/api")
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


def _calls(desk: Desk[Q, A], html: Callable[[], str]) -> APIRouter:
    calls = APIRouter()
    wire: type[Asked[Q]] = Asked[desk.asks]  # type: ignore[name-defined]  # known when the page is

    @calls.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        # the page has a policy of its own, which names the hash of its script
        return HTMLResponse(html(), headers={"content-security-policy": "frame-ancestors 'none'"})

    @calls.post("/api/ask", response_model=None)
    async def ask(body: Annotated[Any, Body()], request: Request) -> A:
        asked = _read(wire, body)
        job = desk.submit(asked.question, name=asked.id, remembered=asked.remembered)
        return await _answered(desk, job, request)

    @calls.get("/api/queue")
    async def queue() -> list[Waiting]:
        return desk.waiting

    @calls.delete("/api/queue/{name}")
    async def cancel(name: str) -> bool:
        return desk.cancel(name)

    @calls.get("/api/history", response_model=None)
    async def history() -> list[Entry[Q, A]]:
        return desk.history

    return calls


def _read(wire: type[Asked[Q]], body: object) -> Asked[Q]:
    """A question as its page writes it. Raises RequestValidationError, as for the bodies of other calls."""
    try:
        return wire.model_validate(body)
    except ValidationError as error:
        raise RequestValidationError([each | {"loc": ("body", *each["loc"])} for each in error.errors()]) from error


async def _answered(desk: Desk[Q, A], job: Job[Q, A], request: Request) -> A:
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
