"""The C library, for calls that Python does not offer. Opened once: every open costs each forked child 0.2 ms."""

import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    """Pass a C call's result on; raise OSError naming `what` where it failed."""
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def syscall(what: str, number: int, *arguments: "int | bytes | None") -> int:
    return check(LIBC.syscall(ctypes.c_long(number), *arguments), what)
