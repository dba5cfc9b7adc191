"""Where the platform's files lie. Assign to these names to redirect every reader and writer, in a test for instance.

Each name is looked up on this module at every call; nobody keeps a copy.
"""
import os

DEFAULT_ENV_FILE_PATH: str = os.environ.get("DEFAULT_ENV_FILE_PATH", "/in/env.yaml")
"""The env.yaml that describes the task; the environment variable of the same name sets it for a whole process tree."""

DEFAULT_CONFIG_FILE_PATH: str = os.environ.get("DEFAULT_CONFIG_FILE_PATH", "/in/config.yaml")
"""Default of `EnvInputConfig.config_file`, taken when `ymir_exc.env` is imported."""
