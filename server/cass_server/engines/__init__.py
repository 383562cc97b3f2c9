"""Where masks and losses are computed: on the CPU or on a GPU."""
