"""Concepts: codebooks over hidden states, and what a model's answers owe to them."""
