"""`python -m cass_server.process.worker`: one of the processes that a supervisor starts."""

from __future__ import annotations

import sys

from cass.malloc import keep_memory
from cass_core.errors import CassError
from cass_server.engines.choice import devices_of, make_engine
from cass_server.observability.logging import count_dropped, set_up_logging
from cass_server.process.main import exit_process, serve_in_process
from cass_server.process.worker_channel import WorkerChannel, worker_arguments
from cass_server.resource_limits import exit_exhausted


def main() -> None:
    """Serves until the supervisor sends SIGTERM or is gone."""
    channel = WorkerChannel.from_environment()
    if channel is None:
        sys.exit("cass_server.process.worker is started by cass-server serve --workers N")
    settings, port, metrics = worker_arguments()
    keep_memory(arenas=1)  # before there are threads
    set_up_logging(settings.log_level)
    try:
        count_dropped(metrics.log_dropped)
        devices = devices_of(settings.device)
        device = devices[channel.index % len(devices)]
        code = serve_in_process(
            settings,
            make_engine(device, settings.launch_timeout_seconds),
            metrics,
            port,
            shared=True,
            serving=lambda _: channel.ready(),
            wait_lost=channel.wait_lost,
        )
    except CassError as error:
        sys.exit(f"cass-server: {error}")
    except Exception as error:
        exit_exhausted(error)
    exit_process(code)


if __name__ == "__main__":
    main()
