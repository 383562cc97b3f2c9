"""`cass-server serve` whose main thread no signal interrupts: another thread notices it.

So it is, by chance, where a signal comes just before the main thread begins to wait.
"""

from __future__ import annotations

import signal
import threading

from cass_server import cli

if __name__ == "__main__":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    cli.main()
