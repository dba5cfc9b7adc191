"""Tencent's object store, by its official SDK; loaded, and credentials looked for, only when a cos:// URI is used."""
from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, NamedTuple

from ymir_exc import _files
from ymir_exc.errors import ConfigError, DatasetError, NetworkError
from ymir_exc.ti._stores import COS, Store

CONFIG_FILE = "~/.ti/config.yaml"
_PART = 1 << 20
_ENVIRONMENT = {"secret_id": "TENCENTCLOUD_SECRET_ID", "secret_key": "TENCENTCLOUD_SECRET_KEY", "token": "TENCENTCLOUD_TOKEN",
                "region": "TENCENTCLOUD_REGION", "app_id": "TENCENTCLOUD_APP_ID", "endpoint": "YMIR_EXC_COS_ENDPOINT"}


class Account(NamedTuple):
    """Who asks, and where; `endpoint` is a host or `http://host:port` in place of Tencent's own."""

    secret_id: str
    secret_key: str
    token: str
    region: str
    app_id: str
    endpoint: str


def account() -> Account:
    """From the environment, and what is not there from `~/.ti/config.yaml`.

    Raises:
        ConfigError: An identifier, a key or a region is missing.
    """
    from ymir_exc._yaml import load_mapping
    path = os.path.expanduser(CONFIG_FILE)
    given: Dict[str, Any] = load_mapping(path, "the account") if os.path.isfile(path) else {}
    basic = given.get("basic", given)
    found = {key: os.environ.get(name) or str((basic if isinstance(basic, dict) else {}).get(key) or "")
             for key, name in _ENVIRONMENT.items()}
    missing = [key for key in ("secret_id", "secret_key", "region") if not found[key]]
    if missing:
        names = ", ".join(_ENVIRONMENT[key] for key in missing)
        raise ConfigError(f"a cos:// URI needs an account, of which {', '.join(missing)} is not known",
                          hint=f"set {names}, or write them below `basic` in {CONFIG_FILE}; a path of this machine needs none")
    return Account(**found)


def sdk() -> Any:
    """The SDK's module.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import qcloud_cos
    except ModuleNotFoundError as e:
        raise ConfigError(f"a cos:// URI needs {e.name}, which is not installed", hint="pip install 'ymir_exc[cos]'") from e
    return qcloud_cos


class CosStore(Store):
    """One bucket.

    Args:
        bucket: Its name, with or without the account's number at its end.

    Raises:
        ConfigError: The SDK is not installed, or there are no credentials.
    """

    def __init__(self, bucket: str) -> None:
        self._sdk = sdk()
        who = account()
        self.bucket = bucket
        self._full = bucket if not who.app_id or bucket.endswith(f"-{who.app_id}") else f"{bucket}-{who.app_id}"
        options: Dict[str, Any] = {"Region": who.region, "SecretId": who.secret_id, "SecretKey": who.secret_key, "Token": who.token or None}
        if who.endpoint:
            scheme, _, place = who.endpoint.rpartition("://")
            options.update(Scheme=scheme or "https", Endpoint=place.rstrip("/"))
            host, _, port = place.rstrip("/").partition(":")
            if port:    # not Tencent's own: asked at this very address, whatever the bucket is called
                options.update(Endpoint=host, IP=host, Port=int(port))
        self._client = self._sdk.CosS3Client(self._sdk.CosConfig(**options))

    def put(self, source: Path, key: str) -> None:
        """As of `Store`; large files in several parts."""
        self._ask(self._client.upload_file, Key=key, LocalFilePath=str(source), PartSize=8, EnableMD5=False)

    def get(self, key: str, target: Path) -> None:
        """As of `Store`."""
        answer = self._ask(self._client.get_object, Key=key)
        length, got = int(answer.get("Content-Length", -1)), 0
        _files.make_folder(target.parent)
        with _files.open_atomic(target) as sink:
            raw = answer["Body"].get_raw_stream()
            while True:
                data = self._read(raw, key)
                if not data:
                    break
                got += len(data)
                sink.write(data)
            if length not in (-1, got):
                raise NetworkError(f"{self.uri(key)} ended after {got} of {length} bytes", hint="try again")

    def _read(self, raw: Any, key: str) -> bytes:
        try:
            return bytes(raw.read(_PART))
        except Exception as e:    # of urllib3, http.client or ssl
            raise NetworkError(f"{self.uri(key)} could not be read to its end: {e}", hint="try again") from e

    def list(self, prefix: str) -> Iterator[str]:
        """As of `Store`, a thousand at a time."""
        marker = ""
        while True:
            answer = self._ask(self._client.list_objects, Prefix=prefix, Marker=marker)
            keys = [str(one["Key"]) for one in answer.get("Contents", [])]
            yield from keys
            marker = answer.get("NextMarker") or (keys[-1] if keys else "")
            if str(answer.get("IsTruncated")).lower() != "true" or not marker:
                return

    def exists(self, key: str) -> bool:
        """As of `Store`."""
        try:
            self._ask(self._client.head_object, Key=key)
        except DatasetError:
            return False
        return True

    def delete(self, key: str) -> None:
        """As of `Store`."""
        self._ask(self._client.delete_object, Key=key)

    def uri(self, key: str) -> str:
        """As of `Store`."""
        return f"{COS}{self.bucket}/{key}"

    def _ask(self, call: Any, **words: Any) -> Any:
        """Call the SDK; its errors become ours."""
        what = self.uri(str(words.get("Key", words.get("Prefix", ""))))
        try:
            return call(Bucket=self._full, **words)
        except self._sdk.CosServiceError as e:
            if e.get_status_code() == 404:
                raise DatasetError(f"there is nothing at {what}: {e.get_error_code()}", hint="look at the bucket's name and the key") from e
            raise NetworkError(f"{what}: {e.get_error_code()}, {e.get_error_msg()}", hint="look at the account and its rights") from e
        except self._sdk.CosClientError as e:
            raise NetworkError(f"{what}: {e}", hint="look at the network, the region and the endpoint") from e
