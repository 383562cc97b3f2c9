"""`python -m cass_server.process.worker`: one of the processes that a supervisor starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cass_core.errors import CassError
from cass_server.config.settings import Settings
from cass_server.engines.base import make_engine
from cass_server.observability.logging import set_up_logging
from cass_server.observability.metrics import Metrics
from cass_server.process.main import (
    FOLDER_VARIABLE,
    PORT_VARIABLE,
    SETTINGS_VARIABLE,
    exit_process,
    serve_in_process,
)
from cass_server.process.worker_channel import WorkerChannel
from cass_server.rpc.launch import LaunchContext


def main() -> None:
    """Serves until the supervisor sends SIGTERM or is gone."""
    channel = WorkerChannel.from_environment()
    if channel is None:
        sys.exit("cass_server.process.worker is started by cass-server serve --workers N")
    settings = Settings.model_validate_json(os.environ[SETTINGS_VARIABLE])
    set_up_logging(settings.log_level)
    try:
        engine = make_engine(settings.device)
        metrics = Metrics.open(Path(os.environ[FOLDER_VARIABLE], f"worker-{channel.index}"))
        launch = LaunchContext(
            int(os.environ[PORT_VARIABLE]),
            shared=True,
            serving=lambda _: channel.ready(),
            wait_lost=channel.wait_lost,
        )
        code = serve_in_process(settings, engine, metrics, launch)
    except CassError as error:
        sys.exit(f"cass-server: {error}")
    exit_process(code)


if __name__ == "__main__":
    main()
