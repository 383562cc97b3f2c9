"""`cass playground`: a page on this machine that shows what each option does to a mask."""
