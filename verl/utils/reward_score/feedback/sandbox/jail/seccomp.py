"""seccomp-bpf filters, assembled here because libseccomp is rarely there in containers.

Two filters stack. `server_filter` is entered once by the fork server and inherited; `program_filter` is added by each
child before it runs anything of the model's. A filter is a list of (code, jump if true, jump if false, constant), the
kernel's `struct sock_filter`; see linux/Documentation/userspace-api/seccomp_filter.rst.
"""

import ctypes
import errno
import platform
import struct

from .libc import syscall
from .syscalls import LAST_KNOWN, NUMBERS

Instruction = tuple[int, int, int, int]

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_EQUAL, _GREATER, _ANY_BIT = 0x15, 0x25, 0x45
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCH = 0, 4

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMN = {"x86_64": 0, "aarch64": 1}
_SECCOMP_CALL = {"x86_64": 317, "aarch64": 277}

_CLONE_THREAD = 0x10000
_SOCK_STREAM, _SOCK_TYPE_MASK = 1, 0xF
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_GETPIPE_SZ, F_GET_SEALS. Every other command tells
# somebody else of this descriptor or holds somebody else up: a lease stops every `open` of a file of Python's library,
# locks and notifications are seen by other programs, an owner gets signals, pipes are paid for by the user.
_FCNTL_OF_OUR_OWN = (0, 1, 2, 3, 4, 1030, 1032, 1034)
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX. Others type into terminals (TIOCSTI), or change flags of the
# library's files, which belong to the trainer's user (FS_IOC_SETFLAGS, FS_IOC_ENABLE_VERITY).
_IOCTL_OF_OUR_OWN = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# MADV_COLD, MADV_PAGEOUT and what breaks memory: they act on the page cache that all processes share.
_MADVISE_SHARED = (20, 21, 100, 101)
_RLIMIT_STACK = 3
_PRCTL_NAME = (15, 16)
# O_WRONLY, O_RDWR, O_CREAT, O_TRUNC; the same bits on both architectures.
_OPEN_TO_WRITE = 0o1 | 0o2 | 0o100 | 0o1000

_SERVER_DENIED = """
socket bind connect listen accept accept4 execve execveat ptrace process_vm_readv process_vm_writev process_madvise
process_mrelease pidfd_getfd pidfd_send_signal kcmp unshare setns migrate_pages move_pages mount umount2 pivot_root
chroot move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr swapon swapoff quotactl quotactl_fd
fanotify_init fanotify_mark inotify_init inotify_init1 name_to_handle_at open_by_handle_at chmod fchmod fchmodat chown
lchown fchown fchownat utime utimes utimensat futimesat setxattr lsetxattr fsetxattr removexattr lremovexattr
fremovexattr mknod mknodat link linkat symlink symlinkat unlink unlinkat rename renameat renameat2 mkdir mkdirat rmdir
truncate creat acct sync syncfs memfd_create memfd_secret io_uring_setup io_uring_enter io_uring_register io_setup
userfaultfd bpf perf_event_open add_key request_key keyctl personality shmget shmat shmctl shmdt msgget msgsnd msgrcv
msgctl semget semop semtimedop semctl mq_open mq_unlink reboot kexec_load kexec_file_load init_module finit_module
delete_module iopl ioperm modify_ldt settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname
syslog vhangup setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups capset flock fadvise64
readahead mincore membarrier sync_file_range
"""

_PROGRAM_DENIED = """
fork vfork rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open setpriority ioprio_set sched_setaffinity sched_setscheduler
sched_setparam sched_setattr
"""


def server_filter(arch: str, *, deny_writing: bool) -> list[Instruction]:
    """Return the fork server's filter: it may fork, wait for and kill its children, and read files.

    deny_writing: also refuse to open files for writing, for machines where Landlock does not do it.
    """
    rules = _Rules(arch)
    rules.deny(_SERVER_DENIED.split())
    # glibc falls back to clone, openat, preadv and pwritev: a filter sees the arguments of the first two, and the
    # others have no flag that tells what the page cache holds (RWF_NOWAIT).
    rules.deny(["clone3", "openat2", "preadv2", "pwritev2"], errno.ENOSYS)
    rules.allow_only_masked("socketpair", 1, _SOCK_TYPE_MASK, _SOCK_STREAM)
    rules.allow_only_values("fcntl", 1, _FCNTL_OF_OUR_OWN)
    rules.allow_only_values("ioctl", 1, _IOCTL_OF_OUR_OWN)
    rules.deny_values("madvise", 2, _MADVISE_SHARED)
    if deny_writing:
        rules.deny_bits("open", 1, _OPEN_TO_WRITE)
        rules.deny_bits("openat", 2, _OPEN_TO_WRITE)
    return rules.finish()


def program_filter(arch: str, pid: int) -> list[Instruction]:
    """Return what a child is refused as well: threads but no processes, signals to itself (`pid`) only."""
    rules = _Rules(arch)
    rules.deny(_PROGRAM_DENIED.split())
    rules.require_bits("clone", 0, _CLONE_THREAD)
    for call in ("kill", "tkill", "tgkill"):
        rules.allow_only_masked(call, 0, 0xFFFFFFFF, pid)
    # Limits can be read. Many solutions raise the stack's, and a larger one would help nobody: the call just succeeds.
    rules.pretend_value("setrlimit", 0, _RLIMIT_STACK)
    rules.pretend_value("prlimit64", 1, _RLIMIT_STACK, unless_null=2, must_be_null=3)
    rules.allow_only_values("prctl", 0, _PRCTL_NAME)
    return rules.finish()


def install(program: list[Instruction]) -> None:
    """Put the calling thread under the filter for good. Raises OSError where the kernel refuses."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: unsigned short length, pointer.
    header = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    set_mode_filter, no_flags = 1, 0
    syscall("seccomp", _SECCOMP_CALL[platform.machine()], set_mode_filter, no_flags, header)


class _Rules:
    """A collection of rules; each is `if number == N: ...return`, so their order does not matter."""

    def __init__(self, arch: str):
        self._column = _COLUMN[arch]
        self._code: list[Instruction] = [
            (_LOAD, 0, 0, _ARCH),
            (_EQUAL, 1, 0, AUDIT_ARCH[arch]),
            (_RETURN, 0, 0, _KILL),
            (_LOAD, 0, 0, _NUMBER),
            # Also refuses x32, whose numbers start at 0x40000000.
            (_GREATER, 0, 1, LAST_KNOWN),
            _errno(errno.ENOSYS),
        ]

    def deny(self, calls: list[str], error: int = errno.EPERM) -> None:
        for call in calls:
            self._on(call, [_errno(error)])

    def deny_values(self, call: str, argument: int, values: tuple[int, ...]) -> None:
        tests = [(_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
        self._on(call, [_low(argument), *tests, _ALLOWED, _errno(errno.EPERM)])

    def allow_only_values(self, call: str, argument: int, values: tuple[int, ...]) -> None:
        tests = [(_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
        self._on(call, [_low(argument), *tests, _errno(errno.EPERM), _ALLOWED])

    def allow_only_masked(self, call: str, argument: int, mask: int, value: int) -> None:
        self._on(call, [_low(argument), (_AND, 0, 0, mask), (_EQUAL, 0, 1, value), _ALLOWED, _errno(errno.EPERM)])

    def deny_bits(self, call: str, argument: int, bits: int) -> None:
        self._on(call, [_low(argument), (_ANY_BIT, 0, 1, bits), _errno(errno.EACCES), _ALLOWED])

    def require_bits(self, call: str, argument: int, bits: int) -> None:
        self._on(call, [_low(argument), (_ANY_BIT, 1, 0, bits), _errno(errno.EPERM), _ALLOWED])

    def pretend_value(
        self,
        call: str,
        argument: int,
        value: int,
        *,
        unless_null: "int | None" = None,
        must_be_null: "int | None" = None,
    ) -> None:
        """Answer success and do nothing if an argument has this value, else EPERM.

        unless_null: a pointer; the call passes where it is null. must_be_null: a pointer that nobody would fill in.
        """
        body = [_low(argument), (_EQUAL, 0, 1, value), _errno(0), _errno(errno.EPERM)]
        if must_be_null is not None:
            body = [*_if_null(must_be_null, len(body)), *body, _errno(errno.EPERM)]
        if unless_null is not None:
            body = [*_if_null(unless_null, 1), _ALLOWED, *body]
        self._on(call, body)

    def finish(self) -> list[Instruction]:
        return [*self._code, _ALLOWED]

    def _on(self, call: str, body: list[Instruction]) -> None:
        number = NUMBERS[call][self._column]
        if number is not None:
            self._code += [(_EQUAL, 0, len(body), number), *body]


_ALLOWED = (_RETURN, 0, 0, _ALLOW)


def _errno(error: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | error)


def _if_null(argument: int, then: int) -> list[Instruction]:
    """Go on if a pointer is null, else skip `then` instructions."""
    high = (_LOAD, 0, 0, 16 + 8 * argument + 4)
    return [_low(argument), (_EQUAL, 0, then + 2, 0), high, (_EQUAL, 0, then, 0)]


def _low(argument: int) -> Instruction:
    """Load the low half of an argument; both architectures are little-endian."""
    return (_LOAD, 0, 0, 16 + 8 * argument)
