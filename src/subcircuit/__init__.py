"""Find, prove and take out the part of a language model that causes a behaviour."""
