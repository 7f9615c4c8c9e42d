"""A component of componentize-py alone: `/echo` streams the body back, `/fail` raises, `/unfinished` leaves its body
open, any other path is greeted."""

from componentize_py_types import Err, Ok
from wit_world.imports.streams import StreamError_Closed
from wit_world.imports.types import Fields, OutgoingBody, OutgoingResponse, ResponseOutparam


held = []


class IncomingHandler:
    def handle(self, request, response_out):
        path = request.path_with_query()
        if path == "/fail":
            raise RuntimeError("told to fail")
        response = OutgoingResponse(Fields.from_list([("content-type", b"text/plain")]))
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        if path == "/unfinished":
            out = body.write()
            out.blocking_write_and_flush(b"the first half")
            held.append((out, body))
            return
        with body.write() as out:
            if path == "/echo":
                echo(request, out)
            else:
                out.blocking_write_and_flush(f"Hello from Python at {path}\n".encode())
        OutgoingBody.finish(body, None)


def echo(request, out):
    with request.consume() as body, body.stream() as chunks:
        while True:
            try:
                out.blocking_write_and_flush(chunks.blocking_read(4096))
            except Err as error:
                if isinstance(error.value, StreamError_Closed):
                    return
                raise
