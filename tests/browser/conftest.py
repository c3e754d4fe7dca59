"""The browser that all tests here share."""

from chromium import browser, opened

__all__ = ["browser", "opened"]
