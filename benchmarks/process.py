"""A measurement in a process of its own, so that it finds a machine that no other has touched."""

import multiprocessing
from collections.abc import Callable
from typing import Any


def measured(target: Callable[..., None], *arguments: Any, start: str) -> Any:
    """Return what `target` sends through the connection that it gets after `arguments`, of which the first names it.

    Args:
        start: of the process, "fork" or "spawn".

    Raises:
        SystemExit: it ended without sending anything.
    """
    context: Any = multiprocessing.get_context(start)
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(*arguments, there))
    process.start()
    # Without the end that the process has, a read returns when it is gone.
    there.close()
    try:
        return here.recv()
    except EOFError:
        raise SystemExit(f"{arguments[0]} failed, see above") from None
    finally:
        process.join()
