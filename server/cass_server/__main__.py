"""`python -m cass_server` is `cass-server`."""

from cass_server.cli import main

main()
