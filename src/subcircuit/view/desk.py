"""Questions of several browsers to one model: they wait in line, can be taken out of it, and are remembered."""

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from subcircuit.errors import ResourceError
from subcircuit.view.questions import Asking, Part

__all__ = ["Desk", "Entry", "Job", "Waiting"]

Q = TypeVar("Q", bound=Asking)
A = TypeVar("A", bound=Part)
MOST_WAITING = 64  # beyond this a page has lost count of what it asks
REMEMBERED = 100


class Waiting(BaseModel):
    """A question in line, or the one the model is at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    summary: str
    running: bool
    seconds: float = Field(description="since it was asked")


class Entry(BaseModel, Generic[Q, A]):
    """A question with its answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    when: str = Field(description="ISO 8601, UTC")
    summary: str
    question: Q
    answer: A


@dataclass
class Job(Generic[Q, A]):
    """One question on its way."""

    id: str
    question: Q
    remembered: bool
    asked: float = field(default_factory=time.monotonic)
    stop: threading.Event = field(default_factory=threading.Event)
    answer: Future[A] = field(default_factory=Future)


class Desk(Generic[Q, A]):
    """One worker thread, first come, first served. `asks` is what its questions are, `answering` whatever can."""

    def __init__(self, asks: type[Q], answering: Callable[[Q, Callable[[], bool]], A]) -> None:
        self.asks, self._answering = asks, answering
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._jobs: dict[str, Job[Q, A]] = {}
        self._history: deque[Entry[Q, A]] = deque(maxlen=REMEMBERED)
        self._answered = 0
        self._lock = threading.Lock()

    def submit(self, question: Q, *, name: str = "", remembered: bool = True) -> Job[Q, A]:
        """Put a question in line, under a name of the asker's. Raises ResourceError when the line is full."""
        job: Job[Q, A] = Job(name or secrets.token_hex(8), question, remembered)
        with self._lock:
            if len(self._jobs) >= MOST_WAITING or job.id in self._jobs:
                raise ResourceError(f"{len(self._jobs)} questions are waiting already", "cancel some, or ask later")
            self._jobs[job.id] = job
            job.answer = self._worker.submit(self._answer, job)
        job.answer.add_done_callback(lambda _: self._forget(job))
        return job

    def cancel(self, name: str) -> bool:
        """Take a question out of the line, or stop the model at it; False when there is none of this name."""
        with self._lock:
            job = self._jobs.get(name)
        if job is None:
            return False
        job.stop.set()
        job.answer.cancel()
        return True

    @property
    def waiting(self) -> list[Waiting]:
        """The line, first the one that is being answered."""
        now = time.monotonic()
        with self._lock:
            jobs = [job for job in self._jobs.values() if not job.stop.is_set()]
        return [
            Waiting(id=job.id, summary=job.question.summary, running=job.answer.running(), seconds=now - job.asked)
            for job in jobs
        ]

    @property
    def history(self) -> list[Entry[Q, A]]:
        """What was answered, the latest first."""
        with self._lock:
            return list(reversed(self._history))

    def close(self) -> None:
        """Stop what runs and drop what waits."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.stop.set()
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _answer(self, job: Job[Q, A]) -> A:
        answer = self._answering(job.question, job.stop.is_set)
        if job.remembered:
            with self._lock:
                self._answered += 1
                when = datetime.now(UTC).isoformat(timespec="seconds")
                summary, question = job.question.summary, job.question
                self._history.append(
                    Entry(number=self._answered, when=when, summary=summary, question=question, answer=answer)
                )
        return answer

    def _forget(self, job: Job[Q, A]) -> None:
        with self._lock:
            self._jobs.pop(job.id, None)
