"""Methods: one file each; the file name is the key."""
