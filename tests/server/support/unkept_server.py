"""`cass-server serve` with malloc as it is: what `keep_memory` is for is seen beside it."""

from __future__ import annotations

from cass_server import cli
from cass_server.process import main as process_main

if __name__ == "__main__":
    process_main.keep_memory = lambda **_: False
    cli.main()
