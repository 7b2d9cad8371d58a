"""What one writes first: a FastAPI endpoint around a `Segmenter`, one request at a time.

python -m benchmarks.serving.naive BUNDLE PORT [CLASSES]
"""

import io
import sys
import threading

from PIL import Image

from scclip_rt import Segmenter


def png_of(segment: Segmenter, data: bytes) -> bytes:
    """Encoded image in, label PNG out."""
    result = segment(Image.open(io.BytesIO(data)))
    stream = io.BytesIO()
    Image.fromarray(result.labels).save(stream, format="PNG")
    return stream.getvalue()


def serve_fastapi(bundle: str, port: int, classes: str | None = None) -> None:
    import uvicorn
    from fastapi import FastAPI, Request, Response
    from fastapi.concurrency import run_in_threadpool

    segment, one_at_a_time = Segmenter(bundle, classes=classes), threading.Lock()
    app = FastAPI()

    def answer(data: bytes) -> bytes:
        with one_at_a_time:
            return png_of(segment, data)

    @app.post("/v1/segment")
    async def endpoint(request: Request) -> Response:
        return Response(await run_in_threadpool(answer, await request.body()), media_type="image/png")

    endpoint.__annotations__.update(request=Request)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    serve_fastapi(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
