"""Sparse regressions on Gram matrices: exact lasso and group lasso, paths of penalties, and which of them to take."""
