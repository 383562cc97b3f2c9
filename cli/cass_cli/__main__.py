"""`python -m cass_cli` is `cass`."""

from cass_cli.main import main

main()
