"""What is said of a bucket that cannot be used, by boto3's own errors against real servers; nothing is repeated."""

import errno
import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from raw_s3 import raw_s3
from servers import Refuse, certificate, forget_client, serving

from segline.errors import SourceError
from segline.files.retry import ATTEMPTS
from segline.files.s3 import Bucket


@pytest.fixture
def settings(s3, monkeypatch):
    """A function that sets variables for the next requests of this process."""

    def put(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
        forget_client()

    for name in (
        "REQUESTS_CA_BUNDLE",
        "SSL_CERT_FILE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "https_proxy",
        "NO_PROXY",
        "no_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    yield put
    monkeypatch.undo()
    forget_client()


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return certificate(tmp_path_factory.mktemp("tls"))


def refusal(call):
    with pytest.raises(SourceError) as caught:
        call()
    (line,) = str(caught.value).splitlines()
    return line


def read_body(handler):
    """Read a body, also one in chunks, so that the next request is not taken from it."""
    if handler.headers["Transfer-Encoding"] == "chunked":
        while size := int(handler.rfile.readline(), 16):
            handler.rfile.read(size + 2)
        handler.rfile.readline()
    handler.rfile.read(int(handler.headers["Content-Length"] or 0))


def answering(status, code, message="no", headers=(), date=""):
    """Return the function that answers every request with an error."""
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()

    def answer(handler):
        read_body(handler)
        if date:
            handler.date_time_string = lambda: date
        return status, {"Content-Type": "application/xml", **dict(headers)}, text

    return answer


def test_a_private_authority_is_trusted_by_the_variable_that_the_line_names(tls, settings):
    path, context = tls
    with serving(raw_s3({"data/a": b"one"}), context) as server:
        settings(AWS_ENDPOINT_URL=server.address, SSL_CERT_FILE=str(path))
        line = refusal(lambda: Bucket("s3://b/data").files)
        assert "certificate is not trusted (self" in line
        assert "set AWS_CA_BUNDLE" in line
        assert "SSL_CERT_FILE is not read" in line
        assert server.asked == []
        settings(AWS_CA_BUNDLE=str(path))
        assert Bucket("s3://b/data").read("a") == b"one"


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_bundle_that_is_none_is_named(tls, settings, tmp_path, content):
    path = tmp_path / "ca.crt"
    if content:
        path.write_text(content, encoding="utf-8")
    with serving(raw_s3({}), tls[1]) as server:
        settings(AWS_ENDPOINT_URL=server.address, AWS_CA_BUNDLE=str(path))
        line = refusal(lambda: Bucket("s3://b/data").files)
    assert f"AWS_CA_BUNDLE (or REQUESTS_CA_BUNDLE) '{path}' is no file with certificates" in line


def test_a_certificate_of_another_name_is_told(tls, settings):
    path, context = tls
    with serving(raw_s3({}), context) as server:
        settings(AWS_ENDPOINT_URL=server.address.replace("localhost", "127.0.0.1"), AWS_CA_BUNDLE=str(path))
        assert "give AWS_ENDPOINT_URL the name in the certificate" in refusal(lambda: Bucket("s3://b/data").files)


def test_a_server_without_tls_is_told(settings):
    with serving(raw_s3({})) as server:
        settings(AWS_ENDPOINT_URL=server.address.replace("http", "https"))
        assert "begin AWS_ENDPOINT_URL with http://" in refusal(lambda: Bucket("s3://b/data").files)


def without_trailers(objects, seen):
    """Return the function that answers as a server does that does not know a body with a checksum at its end."""
    good = raw_s3(objects)

    def answer(handler):
        seen.append(handler.headers["x-amz-content-sha256"])
        if "TRAILER" in (handler.headers["x-amz-content-sha256"] or ""):
            return answering(*refused)(handler)
        return good(handler)

    refused = [501, "NotImplemented", "A header you provided implies functionality that is not implemented."]

    def refuse_with(*fault):
        refused[:] = fault

    return answer, refuse_with


@pytest.mark.parametrize(
    "fault",
    [
        (501, "NotImplemented", "A header implies functionality that is not implemented"),
        (411, "MissingContentLength", "You must provide the Content-Length HTTP header"),
        (400, "XAmzContentSHA256Mismatch", "The provided header does not match what was computed"),
        (400, "InvalidArgument", "STREAMING-UNSIGNED-PAYLOAD-TRAILER is not supported"),
    ],
)
def test_a_server_without_checksums_in_trailers_takes_uploads_with_the_setting(tls, settings, tmp_path, fault):
    path, context = tls
    objects, seen, file = {}, [], tmp_path / "file"
    file.write_bytes(b"content")
    answer, refuse_with = without_trailers(objects, seen)
    refuse_with(*fault)
    with serving(answer, context) as server:
        settings(AWS_ENDPOINT_URL=server.address, AWS_CA_BUNDLE=str(path))
        line = refusal(lambda: Bucket("s3://b/data").write("a", file))
        assert "set AWS_REQUEST_CHECKSUM_CALCULATION=when_required" in line
        assert len([value for value in seen if "TRAILER" in value]) == 1
        settings(AWS_REQUEST_CHECKSUM_CALCULATION="when_required")
        Bucket("s3://b/data").write("a", file)
    assert objects == {"data/a": b"content"}


REFUSALS = [
    (403, "InvalidAccessKeyId", "does not know AWS_ACCESS_KEY_ID"),
    (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY is not that of AWS_ACCESS_KEY_ID"),
    (400, "ExpiredToken", "the session has ended; renew"),
    (403, "ExpiredToken", "the session has ended; renew"),
    (400, "InvalidToken", "AWS_SESSION_TOKEN is not of these keys"),
    (403, "AccessDenied", "if the requester pays there, set AWS_REQUEST_PAYER=requester"),
    (403, "RequestTimeTooSkewed", "the clock of this machine is not the server's"),
    (501, "NotImplemented", "check the URL and the configuration"),
]


@pytest.mark.parametrize(("status", "code", "expected"), REFUSALS)
def test_a_refusal_that_lasts_is_told_at_once_with_what_to_set(settings, status, code, expected):
    with serving(answering(status, code)) as server:
        settings(AWS_ENDPOINT_URL=server.address)
        for call in (lambda tree: tree.files, lambda tree: tree.read("a")):
            server.asked.clear()
            line = refusal(lambda call=call: call(Bucket("s3://b/data")))
            assert expected in line
            assert code in line
            assert len(server.asked) == 1
    assert "attempts" not in line


def test_a_redirect_without_a_region_is_told(settings):
    with serving(answering(301, "PermanentRedirect")) as server:
        settings(AWS_ENDPOINT_URL=server.address)
        line = refusal(lambda: Bucket("s3://b/data").files)
    assert "set AWS_ENDPOINT_URL to the address that it leads to" in line


def test_the_region_that_the_server_names_is_named(settings):
    with serving(answering(301, "PermanentRedirect", headers={"x-amz-bucket-region": "eu-west-1"})) as server:
        settings(AWS_ENDPOINT_URL=server.address)
        assert "set AWS_DEFAULT_REGION=eu-west-1" in refusal(lambda: Bucket("s3://b/data").files)


def test_a_clock_that_is_off_is_told_with_the_offset(settings):
    there = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
    with serving(answering(403, "RequestTimeTooSkewed", date=there)) as server:
        settings(AWS_ENDPOINT_URL=server.address)
        line = refusal(lambda: Bucket("s3://b/data").files)
    assert 3600 <= int(re.search(r"off by (-?\d+) s", line)[1]) < 3900


def test_a_proxy_that_does_not_answer_is_told(settings):
    settings(AWS_ENDPOINT_URL="https://s3.example.org", HTTPS_PROXY="http://127.0.0.1:1")
    line = refusal(lambda: Bucket("s3://b/data").files)
    assert f"{ATTEMPTS} attempts" in line
    assert "are HTTPS_PROXY and NO_PROXY right?" in line


def test_the_requester_pays_in_every_request(settings, tmp_path):
    """A bucket whose owner wants that refuses all other requests with AccessDenied."""
    file = tmp_path / "file"
    file.write_bytes(b"two")
    good = raw_s3({"data/a": b"one"})

    def answer(handler):
        paid = handler.headers["x-amz-request-payer"] == "requester"
        return good(handler) if paid else answering(403, "AccessDenied")(handler)

    with serving(answer) as server:
        settings(AWS_ENDPOINT_URL=server.address, AWS_REQUEST_PAYER="requester")
        tree = Bucket("s3://b/data")
        assert list(tree.files) == ["a"]
        assert tree.read("a") == b"one"
        tree.write("b", file)
        assert tree.exists("b")
        tree.remove("b")
        settings(AWS_REQUEST_PAYER="owner")
        assert "AWS_REQUEST_PAYER: got 'owner', expected requester" in refusal(lambda: Bucket("s3://b/data").files)


@pytest.mark.parametrize(("style", "host"), [("auto", "s3.example.org"), ("virtual", "bucket.s3.example.org")])
def test_the_style_of_addresses_is_that_of_the_file_of_aws(settings, tmp_path, style, host):
    """A proxy gets the whole address, so that no name has to be resolved."""
    path = tmp_path / "config"
    path.write_text(f"[default]\ns3 =\n  addressing_style = {style}\n", encoding="utf-8")
    with serving(raw_s3({"data/a": b"one"})) as proxy:
        settings(AWS_ENDPOINT_URL="http://s3.example.org", AWS_CONFIG_FILE=str(path), HTTP_PROXY=proxy.address)
        assert list(Bucket("s3://bucket/data").files) == ["a"]
    assert proxy.asked[0][1].startswith(f"http://{host}/")


@pytest.mark.parametrize(
    ("default", "other", "expected"), [("", "eu-west-1", "eu-west-1"), ("us-east-2", "eu-west-1", "us-east-2")]
)
def test_the_region_is_boto3s_or_else_that_of_the_other_sdks(settings, default, other, expected):
    with serving(raw_s3({"data/a": b"one"})) as server:
        settings(AWS_ENDPOINT_URL=server.address, AWS_DEFAULT_REGION=default, AWS_REGION=other)
        assert list(Bucket("s3://b/data").files) == ["a"]
        assert f"/{expected}/s3/aws4_request" in server.headers["Authorization"]


def test_what_concerns_one_object_is_still_that_objects_fault(settings):
    with serving(raw_s3({"data/a": b"one"})) as server:
        settings(AWS_ENDPOINT_URL=server.address)
        server.faults = [Refuse(403, "InvalidObjectState")]
        with pytest.raises(OSError, match="restore it") as caught:
            Bucket("s3://b/data").read("a")
    assert caught.value.errno == errno.EIO
