"""Where this machine gets packages from, made known in a root: pip's configuration, certificates, names of hosts."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path

from tuneline.core.environment import read_variable

TIMEOUT_S = 15
_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/xdg/pip", "/etc/ssl/certs/ca-certificates.crt")
_PREFIXES = ("PIP_", "SSL_", "REQUESTS_", "CURL_")
_SUFFIXES = ("_PROXY", "_CA_CERTS")


def list_files() -> list[Path]:
    """Return the files and folders that pip and apt read here, local folders of packages included."""
    paths = [Path(name) for name in (*_FILES, read_variable("PIP_CONFIG_FILE"), *_list_local_indexes()) if name]
    return [path for path in dict.fromkeys(paths) if path.exists()]


def list_variables() -> dict[str, str]:
    """Return the environment variables that configure pip, certificates and proxies."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_PREFIXES) or name.upper().endswith(_SUFFIXES)
    }


@cache
def can_reach(url: str) -> bool:
    """Return whether a package index answers here."""
    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/", timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False
    return True


def find_debian_mirror() -> str | None:
    """Return the address of the Debian mirror that apt uses here; None if apt has none, and the public one is taken."""
    command = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    except FileNotFoundError:
        return None
    return next((line.split()[1] for line in lines if line.startswith("Debian ")), None)


def _list_local_indexes() -> list[str]:
    """Return the folders that pip's configuration names: as `find-links`, or as an index of files."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    values = [word.strip("'\"") for line in lines for word in line.partition("=")[2].replace("\\n", " ").split()]
    folders = [value.removeprefix("file://") for value in values]
    return [str(_top(Path(folder))) for folder in folders if folder.startswith("/") and Path(folder).is_dir()]


def _top(folder: Path) -> Path:
    """Return the folder that holds an index's pages and files."""
    return folder.parent if folder.name == "simple" else folder
