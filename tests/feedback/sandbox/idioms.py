"""Idioms of contest solutions, each a small program: fast input, threads, recursion, templates, large output, modules.

All read the input `INPUT` and print `ANSWER`, so that a table of programs is all there is to read.
"""
# ruff: noqa: E501

INPUT = "3 2\n1 2 3\nab cd\n4 5\n"
ANSWER = "15"
"""The sum of 1, 2, 3, 4 and 5, the third and the last but one line's numbers."""

_SUM = "import sys\nrows = {}\nprint(sum(int(x) for x in rows[1].split()) + sum(int(x) for x in rows[3].split()))"
_NUMBERS = "from {}\nprint(sum(numbers))"

FAST_INPUT = {
    "readlines": _SUM.format("sys.stdin.readlines()"),
    "read-split-lines": _SUM.format("sys.stdin.read().splitlines()"),
    "read-strip-split": _SUM.format("sys.stdin.read().strip().split('\\n')"),
    "list-of-stdin": _SUM.format("list(sys.stdin)"),
    "iterate-and-strip": _SUM.format("[line.rstrip('\\n') for line in sys.stdin]"),
    "star-of-stdin": _SUM.format("(lambda *a: a)(*sys.stdin)"),
    "open-0": _SUM.format("open(0).read().split('\\n')"),
    "open-0-with": "import sys\nwith open(0) as file:\n rows = [*file]\nprint(sum(map(int, rows[1].split() + rows[3].split())))",
    "open-0-binary": _SUM.format("open(0, 'rb').read().split(b'\\n')"),
    "dev-stdin": _SUM.format("open('/dev/stdin').readlines()"),
    "dev-fd-0": _SUM.format("open('/dev/fd/0').readlines()"),
    "proc-self-fd-0": _SUM.format("open('/proc/self/fd/0').readlines()"),
    "buffer-readlines": _SUM.format("sys.stdin.buffer.readlines()"),
    "buffer-raw": _SUM.format("sys.stdin.buffer.raw.readall().split(b'\\n')"),
    "buffer-read1": _SUM.format("sys.stdin.buffer.read1(1 << 16).split(b'\\n')"),
    "iter-sentinel": _SUM.format("list(iter(sys.stdin.readline, ''))"),
    "iter-buffer": _SUM.format("[*iter(sys.stdin.buffer.readline, b'')]"),
    "os-read": _SUM.format("__import__('os').read(0, 1 << 25).decode().split('\\n')"),
    "os-fstat": "import os\nrows = os.read(0, os.fstat(0).st_size).splitlines()\nprint(sum(map(int, rows[1].split() + rows[3].split())))",
    "os-preadv": "import os\nb = bytearray(os.fstat(0).st_size)\nos.preadv(0, [b], 0)\nrows = b.split(b'\\n')\nprint(sum(map(int, rows[1].split() + rows[3].split())))",
    "fdopen": _SUM.format("__import__('os').fdopen(0).readlines()"),
    "mmap": "import mmap\nm = mmap.mmap(0, 0, access=mmap.ACCESS_READ)\nrows = m[:].split(b'\\n')\nprint(sum(map(int, rows[1].split() + rows[3].split())))",
    "mmap-private": "import mmap, os\nm = mmap.mmap(0, os.fstat(0).st_size, mmap.MAP_PRIVATE, mmap.PROT_READ)\nrows = m.read().split(b'\\n')\nprint(sum(map(int, rows[1].split() + rows[3].split())))",
    "detach": _SUM.format("__import__('io').TextIOWrapper(sys.stdin.detach()).readlines()"),
    "reconfigure": "import sys\nsys.stdin.reconfigure(encoding='latin-1', errors='replace')\nsys.stdout.reconfigure(line_buffering=True)\n"
    + _SUM.format("sys.stdin.readlines()"),
    "fileinput": _SUM.format("list(__import__('fileinput').input())"),
    "fileinput-dash": _SUM.format("list(__import__('fileinput').input(['-']))"),
    "input-until-eof": "rows = []\nwhile True:\n try: rows.append(input())\n except EOFError: break\nprint(sum(map(int, rows[1].split() + rows[3].split())))",
    "input-alias": "import sys\ninput = lambda: sys.stdin.readline().rstrip('\\r\\n')\nn, m = map(int, input().split())\na = [*map(int, input().split())]\ns = input()\nassert s == 'ab cd'\nprint(sum(a) + sum(map(int, input().split())))",
    "buffer-alias": "import sys\ninput = sys.stdin.buffer.readline\nint(input().split()[0])\na = input().split()\ninput().decode().strip()\nprint(sum(map(int, a + input().split())))",
    "stringio": "import io, sys\nsys.stdin = io.StringIO(sys.stdin.read())\ninput()\na = input().split()\ninput()\nprint(sum(map(int, a + input().split())))",
    "bytesio": "import io, os, sys\ninput = io.BytesIO(os.read(0, os.fstat(0).st_size)).readline\ninput()\na = input().split()\ninput()\nprint(sum(map(int, a + input().split())))",
    "token-generator": "import sys\ndef tokens():\n for line in sys.stdin:\n  yield from line.split()\nt = tokens()\nn, m = int(next(t)), int(next(t))\na = [int(next(t)) for _ in range(n)]\nnext(t), next(t)\nprint(sum(a) + sum(int(x) for x in t))",
    "token-pointer": "import sys\ndata = sys.stdin.buffer.read().split()\np = 0\ndef read():\n global p\n p += 1\n return data[p - 1]\nn, m = int(read()), int(read())\na = [int(read()) for _ in range(n)]\nread(), read()\nprint(sum(a) + sum(int(read()) for _ in range(m)))",
    "select": "import select, sys\nassert select.select([sys.stdin], [], [], 0)[0]\n"
    + _SUM.format("sys.stdin.readlines()"),
    "seek-and-tell": "import sys\nassert sys.stdin.tell() == 0\nsys.stdin.seek(0, 2)\nsys.stdin.seek(0)\n"
    + _SUM.format("sys.stdin.readlines()"),
    "local-judge-file": "import os, sys\nif os.path.exists('input.txt'):\n sys.stdin = open('input.txt')\n"
    + _SUM.format("sys.stdin.readlines()"),
    "local-judge-try": "import sys\ntry:\n sys.stdin = open('input.txt')\n sys.stdout = open('output.txt', 'w')\nexcept Exception:\n pass\n"
    + _SUM.format("sys.stdin.readlines()"),
    "online-judge-variable": "import os, sys\nif os.environ.get('LOCAL'):\n sys.stdin = open('in')\nif not sys.stdin.isatty():\n "
    + _SUM.format("sys.stdin.readlines()").replace("\n", "\n "),
    "numpy-fromstring": "import sys\nimport numpy as np\nrows = sys.stdin.readlines()\nprint(np.array(rows[1].split() + rows[3].split(), np.int64).sum())",
    "numpy-loadtxt": "import sys\nimport numpy as np\nrows = sys.stdin.readlines()\nprint(int(sum(np.loadtxt([row], dtype=int).sum() for row in rows[1::2])))",
    "ctypes-getchar": "import ctypes\nlibc = ctypes.CDLL(None)\ntext = ''\nwhile (c := libc.getchar()) >= 0: text += chr(c)\nrows = text.split('\\n')\nprint(sum(map(int, rows[1].split() + rows[3].split())))",
}

_FAST_IO = """
import os, sys
from io import BytesIO, IOBase
class FastReader(IOBase):
    newlines = 0
    def __init__(self, file):
        self._fd = file.fileno()
        self.buffer = BytesIO()
        self.writable = 'x' in file.mode or 'r' not in file.mode
        self.write = self.buffer.write if self.writable else None
    def _fill(self):
        chunk = os.read(self._fd, max(os.fstat(self._fd).st_size, 8192))
        place = self.buffer.tell()
        self.buffer.seek(0, 2), self.buffer.write(chunk), self.buffer.seek(place)
        return chunk
    def readline(self):
        while self.newlines == 0:
            chunk = self._fill()
            self.newlines = chunk.count(b'\\n') + (not chunk)
        self.newlines -= 1
        return self.buffer.readline()
    def flush(self):
        if self.writable:
            os.write(self._fd, self.buffer.getvalue())
            self.buffer.truncate(0), self.buffer.seek(0)
class Wrapper(IOBase):
    def __init__(self, file):
        self.buffer = FastReader(file)
        self.flush = self.buffer.flush
        self.writable = self.buffer.writable
        self.write = lambda text: self.buffer.write(text.encode('ascii'))
        self.readline = lambda: self.buffer.readline().decode('ascii')
sys.stdin, sys.stdout = Wrapper(sys.stdin), Wrapper(sys.stdout)
input = lambda: sys.stdin.readline().rstrip('\\r\\n')
input()
a = input().split()
input()
print(sum(map(int, a + input().split())))
sys.stdout.flush()
"""
_READ = "input()\na = input().split()\ninput()\na += input().split()\n"
_READ_SYS = "import sys\ninput = sys.stdin.readline\n" + _READ

TEMPLATES = {
    "fast-io-classes": _FAST_IO,
    "fast-io-at-exit": "import atexit, io, sys\nout = io.StringIO()\nreal = sys.stdout\nsys.stdout = out\natexit.register(lambda: real.write(out.getvalue()))\n"
    + _READ
    + "print(sum(map(int, a)))",
    "fast-io-dunder": "import sys\n" + _READ + "sys.__stdout__.write(str(sum(map(int, a))))",
    "stream-names": "import sys\nassert (sys.stdin.mode, sys.stdout.mode, sys.stderr.mode) == ('r', 'w', 'w')\nassert (sys.stdin.name, sys.stdout.name, sys.stderr.name) == ('<stdin>', '<stdout>', '<stderr>')\nassert sys.stdin.buffer.mode == 'rb' and sys.stdout.buffer.raw.mode == 'wb' and sys.stdin.encoding == 'utf-8'\n"
    + _READ
    + "print(sum(map(int, a)))",
    "solve-t-times": "import sys\ndef solve():\n n, m = map(int, input().split())\n a = list(map(int, input().split()))\n input()\n b = list(map(int, input().split()))\n return sum(a) + sum(b)\nfor _ in range(1):\n print(solve())",
    "main-and-exit": "import sys\ndef main():\n "
    + _READ.strip().replace("\n", "\n ")
    + "\n print(sum(map(int, a)))\n return 0\nif __name__ == '__main__':\n sys.exit(main())",
    "os-exit": "import os, sys\n" + _READ + "print(sum(map(int, a)))\nsys.stdout.flush()\nos._exit(0)",
    "class-solution": "class Solution:\n def run(self, a): return sum(a)\n"
    + _READ
    + "print(Solution().run(map(int, a)))",
    "typing": "from typing import List, Optional\ndef f(a: List[int], b: Optional[int] = None) -> int: return sum(a)\n"
    + _READ
    + "print(f(list(map(int, a))))",
    "argv": "import sys\nassert len(sys.argv) == 1\n" + _READ + "print(sum(map(int, a)))",
    "debug-flag": "import sys\ndef debug(*x): print(*x, file=sys.stderr)\n"
    + _READ
    + "debug(a)\nprint(sum(map(int, a)))",
    "warnings": "import warnings\nwarnings.filterwarnings('ignore')\n" + _READ + "print(sum(map(int, a)))",
    "gc-off": "import gc\ngc.disable()\ngc.freeze()\n" + _READ + "print(sum(map(int, a)))",
    "exec-template": "code = '''\n" + _READ + "print(sum(map(int, a)))\n'''\nexec(code)",
    "lambda-read": "I = lambda: list(map(int, input().split()))\nI()\na = I()\ninput()\nprint(sum(a + I()))",
    "decimal-context": "from decimal import Decimal, getcontext\ngetcontext().prec = 50\n"
    + _READ
    + "print(sum(map(Decimal, a)))",
    "modular-factorials": "M = 10**9 + 7\nf = [1] * 2001\nfor i in range(1, 2001): f[i] = f[i - 1] * i % M\nassert f[2000] * pow(f[2000], -1, M) % M == 1\n"
    + _READ
    + "print(sum(map(int, a)))",
    "int-digits": "import sys\nsys.set_int_max_str_digits(0)\n"
    + _READ
    + "assert len(str(10**60000)) == 60001\nprint(sum(map(int, a)))",
    "time-guard": "import time\nstart = time.perf_counter()\n"
    + _READ
    + "while time.perf_counter() - start < 0.01: pass\nprint(sum(map(int, a)))",
}

_SET_STACK = "import resource, sys\nresource.setrlimit(resource.RLIMIT_STACK, {})\nsys.setrecursionlimit(10**6)\n"
_DEEP = "def deep(n): return 0 if n == 0 else 1 + deep(n - 1)\n"
_RECURSION_THREAD = (
    "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size({})\n"
    + _DEEP
    + "def main():\n "
    + _READ.strip().replace("\n", "\n ")
    + "\n assert deep(50000) == 50000\n print(sum(map(int, a)))\nt = threading.Thread(target=main)\nt.start()\n"
)
_BOOTSTRAP = """
from types import GeneratorType
def bootstrap(f, stack=[]):
    def wrapped(*args):
        if stack: return f(*args)
        to = f(*args)
        while True:
            if type(to) is GeneratorType:
                stack.append(to)
                to = next(to)
            else:
                stack.pop()
                if not stack: return to
                to = stack[-1].send(to)
    return wrapped
@bootstrap
def deep(n):
    if n == 0: yield 0
    rest = yield deep(n - 1)
    yield rest + 1
assert deep(100000) == 100000
"""

RECURSION = {
    "setrlimit-pair": _SET_STACK.format("(2**29, -1)")
    + _DEEP
    + _READ
    + "assert deep(50000) == 50000\nprint(sum(map(int, a)))",
    "setrlimit-infinity": _SET_STACK.format("(resource.RLIM_INFINITY, resource.RLIM_INFINITY)")
    + _READ
    + "print(sum(map(int, a)))",
    "setrlimit-list": _SET_STACK.format("[0x10000000, resource.RLIM_INFINITY]") + _READ + "print(sum(map(int, a)))",
    "setrlimit-hard": _SET_STACK.format("(resource.getrlimit(resource.RLIMIT_STACK)[1],) * 2")
    + _READ
    + "print(sum(map(int, a)))",
    "thread-64-mib": _RECURSION_THREAD.format("64 * 1024 * 1024"),
    "thread-128-mib": _RECURSION_THREAD.format("2**27"),
    "thread-512-mib-join": _RECURSION_THREAD.format("2**29") + "t.join()",
    "thread-odd-size": _RECURSION_THREAD.format("10**8 // 4096 * 4096"),
    "generators": _BOOTSTRAP + _READ + "print(sum(map(int, a)))",
    "lru-cache": "import sys\nfrom functools import lru_cache\nsys.setrecursionlimit(10**6)\n@lru_cache(None)\ndef deep(n): return 0 if n == 0 else 1 + deep(n - 1)\n"
    + _READ
    + "assert deep(20000) == 20000\nprint(sum(map(int, a)))",
    "lru-cache-deep-thread": "import sys, threading\nfrom functools import cache\nsys.setrecursionlimit(10**6)\nthreading.stack_size(2**28)\n@cache\ndef deep(n): return 0 if n == 0 else 1 + deep(n - 1)\n"
    + _READ
    + "t = threading.Thread(target=lambda: print(sum(map(int, a)) if deep(50000) else 0))\nt.start()\nt.join()",
    "catch-recursion-error": "def f(): return f() + 1\ntry: f()\nexcept RecursionError: pass\n"
    + _READ
    + "print(sum(map(int, a)))",
}

THREADS = {
    "lock": "import threading\nlock = threading.Lock()\ntotal = 0\n"
    + _READ
    + "def add(x):\n global total\n with lock: total += x\nts = [threading.Thread(target=add, args=(int(x),)) for x in a]\n[t.start() for t in ts]\n[t.join() for t in ts]\nprint(total)",
    "queue": "import queue, threading\nq = queue.Queue()\n"
    + _READ
    + "threading.Thread(target=lambda: [q.put(int(x)) for x in a + ['0']], daemon=True).start()\nprint(sum(q.get() for _ in range(6)))",
    "executor-many": "from concurrent.futures import ThreadPoolExecutor\n"
    + _READ
    + "with ThreadPoolExecutor(64) as pool:\n print(sum(pool.map(int, a)))",
    "hundred-threads": "import threading\n"
    + _READ
    + "out = []\nts = [threading.Thread(target=out.append, args=(i,)) for i in range(100)]\n[t.start() for t in ts]\n[t.join() for t in ts]\nassert len(out) == 100\nprint(sum(map(int, a)))",
    "barrier": "import threading\n"
    + _READ
    + "b = threading.Barrier(20)\nts = [threading.Thread(target=b.wait) for _ in range(20)]\n[t.start() for t in ts]\n[t.join() for t in ts]\nprint(sum(map(int, a)))",
    "timer": "import threading\n" + _READ + "threading.Timer(0.01, lambda: print(sum(map(int, a)))).start()",
    "asyncio-gather": "import asyncio\n"
    + _READ
    + "async def number(x):\n await asyncio.sleep(0)\n return int(x)\nasync def main(): return sum(await asyncio.gather(*map(number, a)))\nprint(asyncio.run(main()))",
    "asyncio-to-thread": "import asyncio\n" + _READ + "print(asyncio.run(asyncio.to_thread(sum, [int(x) for x in a])))",
    "alarm": "import signal\n"
    + _READ
    + "signal.signal(signal.SIGALRM, lambda *_: None)\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\nsignal.pause()\nprint(sum(map(int, a)))",
    "local-storage": "import threading\nlocal = threading.local()\nlocal.x = 1\n"
    + _READ
    + "t = threading.Thread(target=lambda: print(sum(map(int, a)) if not hasattr(local, 'x') else 0))\nt.start()",
}

_FILL = "sys.stdout.write" + "('' if sum(map(int, a)) != 15 else '15')"

OUTPUT = {
    "join": _READ_SYS + "print('\\n'.join(map(str, [sum(map(int, a))])))",
    "writelines": _READ_SYS + "sys.stdout.writelines([str(sum(map(int, a))), '\\n'])",
    "buffer": _READ_SYS + "sys.stdout.buffer.write(b'%d\\n' % sum(map(int, a)))",
    "buffer-raw": _READ_SYS + "sys.stdout.buffer.raw.write(b'%d\\n' % sum(map(int, a)))",
    "os-write": "import os\n" + _READ + "os.write(1, str(sum(map(int, a))).encode())",
    "os-writev": "import os\n" + _READ + "os.writev(1, [str(sum(map(int, a))).encode(), b'\\n'])",
    "os-pwritev": "import os\n" + _READ + "os.pwritev(1, [str(sum(map(int, a))).encode()], 0)",
    "dev-stdout": _READ + "with open('/dev/stdout', 'w') as file: print(sum(map(int, a)), file=file)",
    "open-1": _READ + "out = open(1, 'w', buffering=1 << 16)\nout.write(str(sum(map(int, a))))\nout.flush()",
    "fdopen-1": "import os\n" + _READ + "with os.fdopen(os.dup(1), 'w') as out: out.write(str(sum(map(int, a))))",
    "print-sep-end": _READ + "print(*str(sum(map(int, a))), sep='', end='')",
    "print-flush": _READ + "print(sum(map(int, a)), flush=True)",
    "print-to-file": _READ_SYS
    + "from functools import partial\nprint = partial(print, file=sys.stdout, flush=True)\nprint(sum(map(int, a)))",
    "redirect": "import contextlib, io\n"
    + _READ
    + "s = io.StringIO()\nwith contextlib.redirect_stdout(s): print(sum(map(int, a)))\nprint(s.getvalue(), end='')",
    "libc-printf": "import ctypes\n"
    + _READ
    + "libc = ctypes.CDLL(None)\nlibc.printf(b'%d\\n', sum(map(int, a)))\nlibc.fflush(None)",
    "format": _READ + "print('{:d}'.format(sum(map(int, a))), f'{\"\"}', sep='')",
    "text-wrapper": _READ_SYS
    + "import io\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, line_buffering=False)\nprint(sum(map(int, a)))",
    "once-by-write": _READ_SYS + _FILL,
}

MODULES = {
    "heapq-bisect": "from heapq import *\nfrom bisect import *\n"
    + _READ
    + "h = []\n[heappush(h, int(x)) for x in a]\nassert bisect_left(sorted(h), 3) == 2\nprint(sum(heappop(h) for _ in range(5)))",
    "itertools": "from itertools import *\n" + _READ + "print(list(accumulate(map(int, a)))[-1])",
    "sortedcontainers": "from sortedcontainers import SortedDict, SortedList\n"
    + _READ
    + "print(sum(SortedList(map(int, a))))",
    "numpy-matrix": "import numpy as np\n"
    + _READ
    + "m = np.array([[1, 1], [1, 0]], dtype=object)\nassert np.linalg.matrix_power(m, 10)[0, 1] == 55\nprint(np.array(a, int).sum())",
    "random-shuffle": "import random\n" + _READ + "random.shuffle(a)\nprint(sum(map(int, a)))",
    "re-string": "import re, string\n"
    + _READ
    + "assert re.fullmatch('[a-e]+', string.ascii_lowercase[:5])\nprint(sum(map(int, re.findall(r'\\d', ' '.join(a)))))",
    "array-struct": "import array, struct\n"
    + _READ
    + "print(sum(array.array('q', map(int, a))) + struct.calcsize('q') - 8)",
    "inspect": "import inspect, operator\nfrom functools import reduce\n"
    + _READ
    + "def f(x): return x\nassert inspect.signature(f)\nprint(reduce(operator.add, map(int, a)))",
    "sqlite": "import sqlite3\n"
    + _READ
    + "db = sqlite3.connect(':memory:')\nprint(db.execute('select ' + '+'.join(a)).fetchone()[0])",
    "compress": "import base64, zlib\n"
    + _READ
    + "exec(zlib.decompress(base64.b64decode(base64.b64encode(zlib.compress(b'print(sum(map(int, a)))')))))",
    "hashlib": "import hashlib, secrets, uuid\n"
    + _READ
    + "assert len(hashlib.md5(b'x').digest()) == 16 and secrets.randbelow(1) == 0 and uuid.uuid4()\nprint(sum(map(int, a)))",
    "complex-math": "import cmath, math\n"
    + _READ
    + "assert abs(cmath.exp(1j * math.pi) + 1) < 1e-9\nprint(math.fsum(map(int, a)).__int__())",
    "traceback": "import traceback\n"
    + _READ
    + "try: 1 / 0\nexcept ZeroDivisionError: traceback.print_exc()\nprint(sum(map(int, a)))",
    "graphlib-calendar": "import calendar, graphlib\n"
    + _READ
    + "assert calendar.isleap(2024) and list(graphlib.TopologicalSorter({1: [2]}).static_order()) == [2, 1]\nprint(sum(map(int, a)))",
    "multiprocessing-import": "import multiprocessing, subprocess, socket\n" + _READ + "print(sum(map(int, a)))",
}

IDIOMS = {
    f"{kind}: {name}": program
    for kind, programs in {
        "input": FAST_INPUT,
        "template": TEMPLATES,
        "recursion": RECURSION,
        "threads": THREADS,
        "output": OUTPUT,
        "modules": MODULES,
    }.items()
    for name, program in programs.items()
}

LARGE_OUTPUT = {
    "print-lines": "for i in range(10**5): print(i)",
    "join-lines": "print('\\n'.join(map(str, range(10**5))))",
    "write-lines": "import sys\nfor i in range(10**5): sys.stdout.write(str(i) + '\\n')",
    "list-then-print": "out = []\nfor i in range(10**5): out.append(i)\nprint(*out, sep='\\n')",
    "bytes-io": "import io, sys\nout = io.BytesIO()\nfor i in range(10**5): out.write(b'%d\\n' % i)\nsys.stdout.buffer.write(out.getvalue())",
    "os-write-chunks": "import os\nfor i in range(0, 10**5, 100): os.write(1, b''.join(b'%d\\n' % j for j in range(i, i + 100)))",
    "numpy-savetxt": "import sys\nimport numpy as np\nnp.savetxt(sys.stdout, np.arange(10**5), fmt='%d')",
}
"""Programs that print the numbers below 100,000, one a line."""
