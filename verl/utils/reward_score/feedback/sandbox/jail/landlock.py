"""Landlock: after `restrict`, only the named paths can be read and nothing can be written or connected to.

linux/Documentation/userspace-api/landlock.rst. The ABI grows with the kernel (1 in 5.13, 4 in 6.7 with TCP, 6 in 6.12
with signals and abstract sockets); all that the running kernel knows is handled.
"""

import os
import struct

from .libc import syscall

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Number of file-system rights by ABI; they are the lowest bits."""


def abi() -> int:
    """Return the kernel's Landlock ABI. Raises OSError (ENOSYS, EOPNOTSUPP) where there is none."""
    return syscall("landlock", _CREATE_RULESET, None, 0, _VERSION_FLAG)


def restrict(readable: list[str], writable: list[str]) -> int:
    """Confine the calling process for good and return the ABI used; paths that do not exist are left out.

    readable: files and directory trees. writable: device files such as /dev/null.
    """
    version = abi()
    handled = (1 << _FS_RIGHTS.get(version, 16)) - 1
    network = 3 if version >= 4 else 0
    scoped = 3 if version >= 6 else 0
    attributes = struct.pack("=QQQ", handled, network, scoped)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = syscall("landlock", _CREATE_RULESET, attributes, size, 0)
    for path in readable:
        _add_rule(ruleset, path, _READ_FILE | _READ_DIR)
    for path in writable:
        _add_rule(ruleset, path, _READ_FILE | _WRITE_FILE)
    syscall("landlock", _RESTRICT_SELF, ruleset, 0)
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
        syscall("landlock", _ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)
