"""An S3 server on the loopback interface, and the environment of its clients."""

from contextlib import contextmanager

SECRET = "nothing-secret"


@contextmanager
def s3_server():
    """Runs moto's server; gives its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


def s3_environment(endpoint: str) -> dict[str, str]:
    """The variables that a client needs."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
