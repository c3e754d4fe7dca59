"""Passes that somebody may call off, and prompts that turn out to be too long."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from subcircuit.batching import out_of_memory
from subcircuit.errors import Interrupted, ResourceError
from subcircuit.subject import Subject

__all__ = ["stopping"]


@contextmanager
def stopping(subject: Subject, stopped: Callable[[], bool]) -> Iterator[None]:
    """Within the block a pass ends at the next layer once `stopped` says so.

    Raises Interrupted then, and ResourceError where the memory does not suffice.
    """

    def look(*_: object) -> None:
        if stopped():
            raise Interrupted("cancelled")

    with ExitStack() as stack:
        for layer in subject.layout.layers:
            stack.callback(layer.register_forward_pre_hook(look).remove)
        look()
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise ResourceError("the prompt does not fit in memory", "shorten it") from error
