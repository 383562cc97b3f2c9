"""`cass-server serve` with an engine that waits for files: started by tests of processes.

Warming up waits for FOLDER/warm, a mask for FOLDER/go; FOLDER/waiting appears when one does.
With FOLDER/fail a mask fails instead, and with FOLDER/checks one whose caller has gone ends.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cass_core.arrays import Array
from cass_core.inputs import MaskInputs
from cass_server import cli
from cass_server.engines.base import Checkpoint, CpuEngine, Engine
from cass_server.process import main as process_main


class HeldEngine(CpuEngine):
    """Waits for files in a folder."""

    small_fill = None

    def __init__(self, folder: Path) -> None:
        """Take the folder."""
        self._folder = folder

    def _wait_for(self, name: str, checkpoint: Checkpoint = None) -> None:
        while not (self._folder / name).exists():
            if checkpoint is not None and (self._folder / "checks").exists():
                checkpoint()
            time.sleep(0.01)

    def warm_up(self) -> None:
        """Wait for `warm`."""
        self._wait_for("warm")
        super().warm_up()

    def masks(
        self,
        inputs: MaskInputs,
        masks: Sequence[Array],
        owners: Sequence[Array],
        checkpoint: Checkpoint = None,
    ) -> None:
        """Fail if there is `fail`, else wait for `go`."""
        if (self._folder / "fail").exists():
            raise RuntimeError("asked to fail")
        (self._folder / "waiting").touch()
        self._wait_for("go", checkpoint)
        super().masks(inputs, masks, owners, checkpoint)


def main() -> None:
    """Serve; the folder is the first argument, the rest are the command's own."""
    folder = Path(sys.argv.pop(1))

    def make_engine(device: str) -> Engine:
        assert device == "cpu"
        return HeldEngine(folder)

    process_main.make_engine = make_engine
    cli.main()


if __name__ == "__main__":
    main()
