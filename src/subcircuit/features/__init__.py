"""Sparse dictionaries: sparse autoencoders and transcoders."""
