"""Ways to a codebook, one file each: the file's name is the method's, its one export the settings with `fit`."""
