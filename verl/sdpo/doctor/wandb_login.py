"""Will wandb find a login? It asks for one on the terminal otherwise, or fails where there is none.

Standard library only, so that a shell can ask by the file's path: exit status 0 if a run can log to wandb.
"""

import os
import sys
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.parse import urlsplit


def server() -> str:
    """Host and port of wandb, as its netrc entry names them."""
    return urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc


def netrc_file() -> Path:
    """The one file that wandb reads (wandb/sdk/lib/wbauth/wbnetrc.py)."""
    names = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    paths = [Path(name).expanduser() for name in names]
    return next((path for path in paths if path.exists()), paths[0])


def has_login() -> bool:
    """Return True if a key is in the environment, or in the netrc file for this server."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        login = netrc(netrc_file()).authenticators(server())
    except (OSError, UnicodeDecodeError, NetrcParseError):
        return False
    return login is not None and bool(login[2])


def can_log() -> bool:
    mode = os.environ.get("WANDB_MODE", "online")
    return mode != "disabled" and (mode != "online" or has_login())


if __name__ == "__main__":
    sys.exit(0 if can_log() else 1)
