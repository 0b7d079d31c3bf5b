"""Runs `uv pip` with pip's settings on where packages come from: python install.py install --requirement FILE …

uv reads neither pip's variables, such as PIP_FIND_LINKS, nor pip.conf. A variable of uv's own that is set wins. pip
looks at every index for a release, and so does uv here: the lock's versions and hashes say which file is the right one.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

FROM_PIP = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}


def uv_environment(pip_config: str, environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` and what it does not say of pip's settings, as `pip config list` prints them: the environment's first.

    Its lines are ``:env:.NAME='VALUE'`` for the environment and ``global.NAME='VALUE'`` for pip.conf.
    """
    settings = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    for line in pip_config.splitlines():
        place, _, value = line.partition("=")
        section, _, name = place.rpartition(".")
        if section in (":env:", "global") and name in FROM_PIP:
            variable = FROM_PIP[name]
            separator = "," if variable == "UV_FIND_LINKS" else " "
            settings.setdefault(variable, separator.join(ast.literal_eval(value).split()))
    return settings | dict(environ)


def main() -> int:
    """uv's exit code."""
    pip = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "config", "list"]
    pip_config = subprocess.run(pip, stdout=subprocess.PIPE, text=True, check=True).stdout
    verb, *arguments = sys.argv[1:]
    command = [str(Path(sys.executable).with_name("uv")), "pip", verb, "--python", sys.executable, *arguments]
    return subprocess.run(command, env=uv_environment(pip_config, os.environ), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
