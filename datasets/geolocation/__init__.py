"""Photos and where they were taken: tables, EXIF, tar shards and data modules."""
