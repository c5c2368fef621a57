"""Landlock: after `restrict`, only the named paths can be read and nothing can be written or connected to.

linux/Documentation/userspace-api/landlock.rst. The ABI grows with the kernel (1 in 5.13, 4 in 6.7 with TCP, 6 in 6.12
with signals and abstract sockets); all that the running kernel knows is handled.
"""

import ctypes
import os
import struct

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Number of file-system rights by ABI; they are the lowest bits."""


def abi() -> int:
    """The kernel's Landlock ABI. Raises OSError (ENOSYS, EOPNOTSUPP) where there is none."""
    return _call(_CREATE_RULESET, None, 0, _VERSION_FLAG)


def restrict(readable: list[str], writable: list[str]) -> int:
    """Confines the calling process for good and returns the ABI used; paths that do not exist are left out.

    readable: files and directory trees. writable: device files such as /dev/null.
    """
    version = abi()
    handled = (1 << _FS_RIGHTS.get(version, 16)) - 1
    network = 3 if version >= 4 else 0
    scoped = 3 if version >= 6 else 0
    attributes = struct.pack("=QQQ", handled, network, scoped)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _call(_CREATE_RULESET, attributes, size, 0)
    for path in readable:
        _add_rule(ruleset, path, _READ_FILE | _READ_DIR)
    for path in writable:
        _add_rule(ruleset, path, _READ_FILE | _WRITE_FILE)
    _call(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return version


def _add_rule(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not os.path.isdir(path):
        rights &= ~_READ_DIR
    try:
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: "int | bytes | None") -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"landlock: {os.strerror(error)}")
    return result
