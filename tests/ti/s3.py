"""A server of this machine that speaks S3 to the object store's own SDK."""
from __future__ import annotations

import contextlib
import threading
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server


class Threaded(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving():
    """moto's S3; the SDK names the bucket in the host's name and signs in a way of its own."""
    from moto.server import create_backend_app
    backend = create_backend_app("s3")
    asked = []

    def app(environ, start):
        bucket = environ["HTTP_HOST"].partition(".")[0]
        asked.append((environ["REQUEST_METHOD"], environ.get("HTTP_AUTHORIZATION", "")))
        environ["PATH_INFO"] = f"/{bucket}{environ['PATH_INFO']}"
        environ["RAW_URI"] = environ["REQUEST_URI"] = ""
        environ["HTTP_HOST"] = "127.0.0.1"
        environ["HTTP_AUTHORIZATION"] = ("AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/s3/aws4_request, "
                                         "SignedHeaders=host, Signature=00")
        for key in [key for key in environ if key.startswith("HTTP_X_COS_")]:
            environ[key.replace("X_COS", "X_AMZ")] = environ.pop(key)
        return backend(environ, start)

    made = make_server("127.0.0.1", 0, app, server_class=Threaded, handler_class=Quiet)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    made.asked = asked
    try:
        yield made
    finally:
        made.shutdown()
        made.server_close()


def variables(server):
    """The environment of one who has an account there."""
    return {"TENCENTCLOUD_SECRET_ID": "AKIDx", "TENCENTCLOUD_SECRET_KEY": "key", "TENCENTCLOUD_REGION": "ap-test",
            "YMIR_EXC_COS_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
