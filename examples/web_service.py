"""Serve a model over HTTP with the standard library.

    python examples/web_service.py [PORT]
    curl --data-binary @photo.jpg http://127.0.0.1:8000/

One model serves all requests: `Model.run` may be called from any number of threads at once.
"""

import io
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

import nbconv
from nbconv.image import load_image
from nbconv.models import efficientnet_lite0, imagenet_classes

MODEL = nbconv.load(efficientnet_lite0())
NAMES = imagenet_classes()
MAX_BYTES = 10_000_000


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 < length <= MAX_BYTES:
            return self.answer(413, {"error": f"send a picture of at most {MAX_BYTES} bytes"})
        try:
            x = load_image(io.BytesIO(self.rfile.read(length)), (224, 224), mean=127, std=128)
        except ValueError as error:  # not a picture, or a damaged one
            return self.answer(400, {"error": str(error)})
        logits = MODEL(x)[0]
        return self.answer(200, {"classes": [NAMES[i] for i in np.argsort(-logits)[:5]]})

    def answer(self, status: int, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(argv: list[str]) -> None:
    MODEL(np.zeros((1, 3, 224, 224), np.float32))  # compile or load kernels before the first request
    server = ThreadingHTTPServer(("127.0.0.1", int(argv[0]) if argv else 8000), Handler)
    print(f"listening on http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
