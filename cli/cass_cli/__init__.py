"""The command `cass`: masks, pictures and facts from COCO files."""
