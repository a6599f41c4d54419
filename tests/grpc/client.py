"""One gRPC call by grpcio, as raw bytes: needs neither protoc nor generated code.

    client.py ADDRESS METHOD KIND MESSAGE       KIND: unary, server-stream, client-stream
                                                MESSAGE: in hexadecimal digits

Prints a line for each message that comes, for each trailer, and for the status:

    message 0a0568656c6c6f
    trailer go-on-at=42
    status UNAVAILABLE the server is shutting down
"""

import sys
import threading

import grpc


def main(address, method, kind, message):
    message = bytes.fromhex(message)
    # A proxy of the machine's is not to stand between us and the loopback.
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options) as channel:
        call = start(channel, method, kind, message)
        try:
            for answer in call if kind == "server-stream" else iter([call.result()]):
                print("message", answer.hex(), flush=True)
        except grpc.RpcError:
            pass
        for key, value in call.trailing_metadata() or ():
            print(f"trailer {key}={value}")
        print("status", call.code().name, call.details())


def start(channel, method, kind, message):
    raw = {"request_serializer": bytes, "response_deserializer": bytes}
    if kind == "unary":
        return channel.unary_unary(method, **raw).future(message, timeout=30)
    if kind == "server-stream":
        return channel.unary_stream(method, **raw)(message, timeout=30)
    if kind == "client-stream":
        return channel.stream_unary(method, **raw).future(endless(message), timeout=30)
    raise ValueError(kind)


def endless(message):
    """One message, and no end: grpcio keeps the upload open until the call is over."""
    yield message
    threading.Event().wait(30)


main(*sys.argv[1:])
