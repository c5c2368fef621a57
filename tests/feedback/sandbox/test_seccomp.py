"""The filters, run by a small BPF interpreter: so the aarch64 one is tested on any machine."""

import errno
import platform
import re
import signal
from pathlib import Path

import pytest

from verl.utils.reward_score.feedback.sandbox.jail import seccomp
from verl.utils.reward_score.feedback.sandbox.jail.syscalls import LAST_KNOWN, NUMBERS

ARCHES = list(seccomp.AUDIT_ARCH)
PID = 4321
ALLOW, KILL = "allow", "kill"
_ORDINARY = {
    "x86_64": {"read": 0, "write": 1, "mmap": 9, "munmap": 11, "brk": 12, "futex": 202, "exit_group": 231},
    "aarch64": {"read": 63, "write": 64, "mmap": 222, "munmap": 215, "brk": 214, "futex": 98, "exit_group": 94},
}


def run(program: list[seccomp.Instruction], number: int, arguments: tuple[int, ...], arch: str) -> str | int:
    """Return what the kernel would answer: "allow", "kill" or an errno (linux/kernel/bpf/core.c, classic opcodes)."""
    words = {0: number, 4: seccomp.AUDIT_ARCH[arch]}
    for index in range(6):
        value = arguments[index] if index < len(arguments) else 0
        words[16 + 8 * index] = value & 0xFFFFFFFF
        words[16 + 8 * index + 4] = value >> 32 & 0xFFFFFFFF
    accumulator, position = 0, 0
    while True:
        code, if_true, if_false, constant = program[position]
        position += 1
        if code == 0x20:
            accumulator = words[constant]
        elif code == 0x54:
            accumulator &= constant
        elif code == 0x06:
            if constant == 0x7FFF0000:
                return ALLOW
            return KILL if constant == 0x80000000 else constant & 0xFFFF
        else:
            holds = {
                0x15: accumulator == constant,
                0x25: accumulator > constant,
                0x45: bool(accumulator & constant),
            }[code]
            position += if_true if holds else if_false


def both(call: str, *arguments: int, arch: str, deny_writing: bool = False) -> str | int:
    """Return the answer to a program's call: the stricter of the two filters', as in the kernel."""
    number = NUMBERS[call][ARCHES.index(arch)]
    assert number is not None
    answers = [
        run(seccomp.server_filter(arch, deny_writing=deny_writing), number, arguments, arch),
        run(seccomp.program_filter(arch, PID), number, arguments, arch),
    ]
    return next((answer for answer in answers if answer != ALLOW), ALLOW)


@pytest.mark.parametrize("arch", ARCHES)
class TestFilter:
    def test_ordinary_calls_pass(self, arch: str) -> None:
        for number in _ORDINARY[arch].values():
            for program in (seccomp.server_filter(arch, deny_writing=True), seccomp.program_filter(arch, PID)):
                assert run(program, number, (), arch) == ALLOW

    def test_every_named_call_is_judged(self, arch: str) -> None:
        conditional = {"open", "openat", "socketpair", "seccomp", "prlimit64", "madvise", "fcntl", "ioctl"}
        denied = (seccomp._SERVER_DENIED + seccomp._PROGRAM_DENIED).split()
        for call, numbers in NUMBERS.items():
            if numbers[ARCHES.index(arch)] is None:
                continue
            if call in denied:
                assert both(call, arch=arch) == errno.EPERM, call
            elif call not in conditional:
                assert both(call, arch=arch) in (errno.EPERM, errno.ENOSYS), call

    def test_foreign_architecture_is_killed(self, arch: str) -> None:
        other = next(name for name in ARCHES if name != arch)
        assert run(seccomp.server_filter(arch, deny_writing=False), 0, (), other) == KILL

    def test_unknown_and_x32_calls_do_not_exist(self, arch: str) -> None:
        for number in (LAST_KNOWN + 1, 0x40000000, 0x40000000 + 41, 0xFFFFFFFF):
            assert run(seccomp.server_filter(arch, deny_writing=False), number, (), arch) == errno.ENOSYS

    def test_threads_but_no_processes(self, arch: str) -> None:
        thread = 0x3D0F00  # what glibc's pthread_create asks for
        assert both("clone", thread, arch=arch) == ALLOW
        assert both("clone", signal.SIGCHLD, arch=arch) == errno.EPERM
        assert both("clone3", arch=arch) == errno.ENOSYS

    def test_signals_to_itself_only(self, arch: str) -> None:
        for call in ("kill", "tgkill"):
            assert both(call, PID, 9, arch=arch) == ALLOW
            for other in (1, 0, -1 & 0xFFFFFFFF, -PID & 0xFFFFFFFF, PID + 1):
                assert both(call, other, 9, arch=arch) == errno.EPERM

    def test_limits_can_be_read_but_not_set(self, arch: str) -> None:
        assert both("prlimit64", 0, 7, 0, 0x7FFF0000, arch=arch) == ALLOW
        for pointer in (0x1000, 1 << 40):
            assert both("prlimit64", 0, 7, pointer, 0, arch=arch) == errno.EPERM
            assert both("prlimit64", 0, 3, pointer, 0x1000, arch=arch) == errno.EPERM
            assert both("prlimit64", 0, 3, 0, pointer, arch=arch) == ALLOW
        assert both("setrlimit", 7, 0x1000, arch=arch) == errno.EPERM

    def test_the_stack_limit_seems_to_be_set(self, arch: str) -> None:
        for pointer in (0x1000, 1 << 40):
            assert both("prlimit64", 0, 3, pointer, 0, arch=arch) == 0
            assert both("setrlimit", 3, pointer, arch=arch) == 0

    def test_socket_pairs_of_streams_only(self, arch: str) -> None:
        assert both("socketpair", 1, 1 | 0o2000000, arch=arch) == ALLOW
        assert both("socketpair", 1, 2, arch=arch) == errno.EPERM

    def test_descriptors_get_no_owner(self, arch: str) -> None:
        assert both("fcntl", 0, 1, arch=arch) == ALLOW
        assert [both("fcntl", 0, command, arch=arch) for command in (8, 10, 15)] == [errno.EPERM] * 3
        assert [both("fcntl", 0, command, arch=arch) for command in (0, 1, 2, 3, 4, 1030)] == [ALLOW] * 6
        assert both("ioctl", 0, 0x5401, arch=arch) == ALLOW
        assert both("ioctl", 0, 0x5412, arch=arch) == errno.EPERM

    def test_files_are_neither_leased_locked_nor_watched(self, arch: str) -> None:
        locks = (5, 6, 7, 36, 37, 38)
        leases_and_notifications, seals_and_hints = (1024, 1025, 1026), (1031, 1033, 1036, 1038)
        for command in (*locks, *leases_and_notifications, *seals_and_hints):
            assert both("fcntl", 3, command, arch=arch) == errno.EPERM, command
        assert both("flock", 3, 6, arch=arch) == errno.EPERM

    def test_flags_of_files_stay(self, arch: str) -> None:
        set_flags, set_attributes, enable_verity = 0x40086602, 0x401C5820, 0x40806685
        for request in (set_flags, set_attributes, enable_verity):
            assert both("ioctl", 3, request, arch=arch) == errno.EPERM

    def test_the_page_cache_is_neither_asked_nor_emptied(self, arch: str) -> None:
        for call in ("fadvise64", "readahead", "mincore"):
            assert both(call, arch=arch) == errno.EPERM
        assert both("preadv2", arch=arch) == both("pwritev2", arch=arch) == errno.ENOSYS
        assert [both("madvise", 0, 1, advice, arch=arch) for advice in (4, 8, 14, 20, 21)] == [
            *[ALLOW] * 3,
            *[errno.EPERM] * 2,
        ]

    def test_process_control_names_threads_only(self, arch: str) -> None:
        assert both("prctl", 15, arch=arch) == ALLOW
        assert both("prctl", 1, arch=arch) == errno.EPERM

    def test_writing_is_denied_where_landlock_is_missing(self, arch: str) -> None:
        for flags in (0o1, 0o2, 0o100, 0o1000, 0o1 | 0o100 | 0o2000000):
            assert both("openat", 0, 0, flags, arch=arch, deny_writing=True) == errno.EACCES
            assert both("openat", 0, 0, flags, arch=arch) == ALLOW
        assert both("openat", 0, 0, 0o2000000, arch=arch, deny_writing=True) == ALLOW

    def test_program_filter_is_short(self, arch: str) -> None:
        # It is installed once per test, and runs at each of the program's calls.
        assert len(seccomp.program_filter(arch, PID)) < 80

    def test_jumps_stay_inside(self, arch: str) -> None:
        for program in (seccomp.server_filter(arch, deny_writing=True), seccomp.program_filter(arch, PID)):
            assert len(program) <= 4096
            for index, (code, if_true, if_false, _) in enumerate(program):
                if code in (0x15, 0x25, 0x45):
                    assert max(if_true, if_false) < 256
                    assert index + 1 + max(if_true, if_false) < len(program)


def _header_numbers(path: str, pattern: str) -> dict[str, int]:
    return {match[1]: int(match[2]) for match in re.finditer(pattern, Path(path).read_text())}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs the x86_64 kernel headers")
def test_numbers_agree_with_the_kernel_headers() -> None:
    headers = [
        ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", r"#define __NR_(\w+) (\d+)"),
        ("/usr/include/asm-generic/unistd.h", r"#define __NR(?:3264)?_(\w+) (\d+)"),
    ]
    for column, (path, pattern) in enumerate(headers):
        if not Path(path).exists():
            pytest.skip(f"{path} is not installed (Debian: linux-libc-dev)")
        numbers = _header_numbers(path, pattern)
        assert {call: known[column] for call, known in NUMBERS.items()} == {call: numbers.get(call) for call in NUMBERS}
