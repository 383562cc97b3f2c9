"""`python -m cass_client` is `cass`."""

from cass_client.cli import main

main()
