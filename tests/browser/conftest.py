"""The marker of tests that need a Chromium."""
from __future__ import annotations


def pytest_configure(config):
    config.addinivalue_line("markers", "browser: drives headless Chromium, from the distribution's packages")
