"""Report of a check."""

from typing import NamedTuple

OK, WARN, FAIL = "OK", "WARN", "FAIL"


class Finding(NamedTuple):
    """Result of one check, with the fix of a problem."""

    status: str
    subject: str
    found: str
    fix: str = ""

    def __str__(self) -> str:
        line = f"{self.status:4}  {self.subject:15} {self.found}"
        return f"{line}\n{'':22}-> {self.fix}" if self.fix else line
