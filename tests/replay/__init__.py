"""The calls that images in the wild make, and what must come of them.

Images were built with six lines of the older package. An id names the item of the compatibility list, the call, and the line that it is
of: P (the release on PyPI), I (the platform's own fork), 1.0, 1.3, dev, 2 (2.1 to 2.4). What the older package got wrong and this one
does otherwise is marked `corrected` in the id. The expected bytes are written by hand.
"""
from __future__ import annotations


class Tensor:
    """What this package may ask of a tensor with one element: torch need not be there."""

    def __init__(self, value, shape=()):
        self.value, self.shape = value, shape

    def __float__(self):
        return float(self.value)

    def __int__(self):
        return int(self.value)

    def item(self):
        return self.value

    def tolist(self):
        return [self.value] if self.shape else self.value


def on_platform(platform, monkeypatch, name):
    """Let the task run on a platform of some age.

    Args:
        name: 'old' (up to 1.1: no protocol version, one flat model), '1.2' (stages, known by YMIR_VERSION alone), 'I' (an empty protocol
            version), '1.3' (protocol 1.0.0) or 'new' (2.0 to 2.5: protocol 1.1.0).
    """
    platform.env["protocol_version"] = {"I": "", "1.3": "1.0.0", "new": "1.1.0"}.get(name, "")
    if name in ("old", "1.2"):
        for key in ("protocol_version", "manifest_file"):
            del platform.env[key]
        del platform.env["output"]["executor_log_file"]
        monkeypatch.setenv("YMIR_VERSION", {"old": "1.1.0", "1.2": "1.2.0"}[name])
    platform.write()
