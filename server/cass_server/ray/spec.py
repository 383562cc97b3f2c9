"""The plan of a service on a cluster, checked before anything is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cass.discovery import SERVICE_FORM
from cass_core.errors import CassError
from cass_server.config.settings import Settings
from cass_server.config.sources import LoadedSettings, SettingsError

# Ray knows no smaller part of a CPU or a GPU.
_SMALLEST_PART = 0.0001

REJECTED_SETTINGS = {
    "host": "a replica listens on its node's address",
    "port": "a replica takes a free port",
    "workers": "a replica is one process",
    "metrics_host": "a replica serves metrics on its node's address",
    "http_port": "replicas answer by gRPC, as those who find them on the cluster call",
    "http_origins": "replicas answer by gRPC, as those who find them on the cluster call",
}
"""Settings that replicas do not take, each with the reason."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A service on a cluster: the options of `cass-server ray`, and the settings of replicas."""

    name: str
    settings: Settings
    min_replicas: int
    max_replicas: int
    target_in_flight: float
    calm_seconds: float
    num_cpus: float
    num_gpus: float


def settings_of_replicas(loaded: LoadedSettings, cpus: float, gpus: float) -> Settings:
    """The settings of replicas with these CPUs and GPUs each.

    Relative paths become absolute, as replicas run in other folders.

    Raises:
        SettingsError: one of them is not for replicas.
    """
    faults = [
        f"{loaded.given[name]}: not on a Ray cluster: {reason}"
        for name, reason in REJECTED_SETTINGS.items()
        if name in loaded.given
    ]
    settings = loaded.settings
    if gpus == 0 and settings.device.startswith("cuda"):
        faults.append(f"{loaded.given['device']}: {settings.device} needs --num-gpus")
    if gpus > 1 and not gpus.is_integer():
        faults.append(f"--num-gpus {gpus:g}: must be a whole number, or below 1")
    for option, amount in (("--num-cpus", cpus), ("--num-gpus", gpus)):
        if 0 < amount < _SMALLEST_PART:
            faults.append(f"{option} {amount:g}: must be 0, or at least {_SMALLEST_PART:g}")
    if faults:
        raise SettingsError("\n".join(faults))
    changed: dict[str, Any] = {
        name: value.absolute() for name, value in settings if isinstance(value, Path)
    }
    # Without a GPU of its own a replica must not find another's.
    if gpus == 0:
        changed["device"] = "cpu"
    return settings.model_copy(update=changed)


def check_name(name: str) -> None:
    """Rejects a name that cannot be a service's.

    Raises:
        CassError: the name is invalid.
    """
    if not SERVICE_FORM.fullmatch(name):
        raise CassError(
            f"--name {name!r}: must be at most 100 letters, digits, dots, hyphens and underscores,"
            " the first a letter or digit, and not a number"
        )


def replica_bounds(replicas: int | None, least: int | None, most: int | None) -> tuple[int, int]:
    """The smallest and the largest number of replicas.

    Args:
        replicas: a fixed number, if given.
        least: if given, the smallest.
        most: if given, the largest.

    Raises:
        CassError: they do not go together.
    """
    if most is None:
        if least is not None:
            raise CassError("--min-replicas: needs --max-replicas too")
        fixed = 1 if replicas is None else replicas
        return fixed, fixed
    if replicas is not None:
        raise CassError("--replicas: cannot be given beside --max-replicas")
    least = 1 if least is None else least
    if least > most:
        raise CassError(f"--min-replicas {least}: must be at most --max-replicas, which is {most}")
    return least, most
