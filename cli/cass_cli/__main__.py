"""`python -m cass_client` is `cass`."""

from cass_cli.main import main

main()
