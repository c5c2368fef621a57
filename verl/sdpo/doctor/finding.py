"""What a check reports."""

from typing import NamedTuple

OK, WARN, FAIL = "OK", "WARN", "FAIL"


class Finding(NamedTuple):
    """What one check found, and for a problem how to fix it."""

    status: str
    subject: str
    found: str
    fix: str = ""

    def __str__(self) -> str:
        line = f"{self.status:4}  {self.subject:15} {self.found}"
        return f"{line}\n{'':22}-> {self.fix}" if self.fix else line
