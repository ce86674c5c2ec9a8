"""The effects, without decisions: git, the disk, the database, Ray. Each file keeps one port's promises."""
