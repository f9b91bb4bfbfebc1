"""An S3 server that keeps keys as they are; moto merges the slashes of `a//b`."""

import hashlib
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


def raw_s3(objects):
    """Return the function that answers to list, get, put and delete; ``objects``: key -> bytes."""

    def answer(handler):
        url = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if "list-type" in query:
            return 200, {"Content-Type": "application/xml"}, listing(query.get("prefix", ""))
        key = unquote(url.path.split("/", 2)[2])
        if handler.command == "PUT":
            objects[key] = handler.rfile.read(int(handler.headers["Content-Length"]))
        if handler.command == "DELETE":
            objects.pop(key, None)
            return 204, {}, b""
        if key not in objects:
            return 404, {}, b"<Error><Code>NoSuchKey</Code></Error>"
        body = objects[key] if handler.command == "GET" else b""
        return 200, {"ETag": etag(objects[key])}, body

    def listing(prefix):
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size><ETag>{escape(etag(content))}</ETag></Contents>"
            for key, content in sorted(objects.items())
            if key.startswith(prefix)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()

    return answer


def etag(content):
    return f'"{hashlib.md5(content).hexdigest()}"'
