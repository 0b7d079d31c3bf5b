"""Which Ray cluster and which MLflow server a command uses: an existing one that was named, or the embedded ones."""

from __future__ import annotations

from dataclasses import dataclass

import requests

from ..datasets import reach_this_machine_directly
from ..orchestration.errors import EngineError
from .home import Home
from .jobs import Jobs
from .server_address import named_server
from .services import Services


@dataclass(frozen=True)
class Engines:
    """Addresses of the two engines, and which of them are our own embedded ones."""

    address: str
    tracking_uri: str
    local_ray: bool
    local_mlflow: bool


def ensure_engines(
    home: Home,
    address: str | None,
    tracking_uri: str | None,
    dashboard_port: int | None = None,
    mlflow_port: int | None = None,
) -> Engines:
    """Check the engines that were named and start the embedded ones in place of those that were not.

    Raises:
        UserError: an address is none.
        EngineError: a named engine does not answer, or an embedded one does not start.
    """
    address, tracking_uri = check_named(address, tracking_uri)
    services = Services(home)
    ray_address = address or services.ensure_ray(dashboard_port).url
    mlflow_uri = tracking_uri or services.ensure_mlflow(mlflow_port).url
    return Engines(ray_address, mlflow_uri, local_ray=not address, local_mlflow=not tracking_uri)


def check_named(address: str | None, tracking_uri: str | None) -> tuple[str | None, str | None]:
    """The addresses that were named, as they are used; before anything else is done, which may be for nothing.

    Raises:
        UserError: an address is none.
        EngineError: a named engine does not answer.
    """
    tracking_uri = check_mlflow(tracking_uri) if tracking_uri else None
    return Jobs(address).address if address else None, tracking_uri


def check_mlflow(uri: str) -> str:
    """The address without slashes at its end, if a healthy MLflow server answers there within seconds.

    Raises:
        UserError: it is no address.
        EngineError: no such server answers.
    """
    uri = named_server("--tracking-uri", uri, "an MLflow server, such as http://mlflow:5000")
    reach_this_machine_directly()
    try:
        answer = requests.get(f"{uri}/health", timeout=5)
    except requests.RequestException as error:
        reason = "no answer" if isinstance(error, requests.ConnectionError) else type(error).__name__
        raise EngineError(f"--tracking-uri {uri}: {reason}; is the MLflow server running there?") from error
    if not answer.ok or answer.text.strip() != "OK":
        raise EngineError(f"--tracking-uri {uri}: something answers there, but it is no healthy MLflow server")
    return uri
