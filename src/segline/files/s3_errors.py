"""What an error of boto3 means for a bucket as a whole: what is wrong, and what to set.

An error that another attempt would meet again is told at once; these are the variables that boto3 and its servers want.
"""

import os
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from segline.errors import SourceError, one_line

REQUEST_PAYER = "AWS_REQUEST_PAYER"
"""The variable that says who pays, of GDAL and of the crate object_store; boto3 has none."""
CHECKSUMS = "AWS_REQUEST_CHECKSUM_CALCULATION"
TRANSIENT_CODES = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestTimeout",
    "RequestLimitExceeded",
    "InternalError",
}
REGION_CODES = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}
"""The codes of a request to another region than the bucket's, if boto3 could not follow it."""
TOKEN = "the session has ended; renew AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN"
KEY_CODES = {
    "InvalidAccessKeyId": "the server does not know AWS_ACCESS_KEY_ID; set a key of this server, or AWS_ENDPOINT_URL",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY is not that of AWS_ACCESS_KEY_ID, or a proxy changes the requests",
    "ExpiredToken": TOKEN,
    "ExpiredTokenException": TOKEN,
    "TokenRefreshRequired": TOKEN,
    "InvalidToken": "AWS_SESSION_TOKEN is not of these keys; set the one that belongs to them, or none",
}
"""The codes of credentials that are wrong, with what to do."""
WRITES = {"PutObject", "UploadPart", "CreateMultipartUpload", "CompleteMultipartUpload"}
NO_CHECKSUM_CODES = {"NotImplemented", "MissingContentLength", "XAmzContentSHA256Mismatch"}
ELSEWHERE = "set AWS_ENDPOINT_URL to the address that it leads to, or AWS_DEFAULT_REGION to the region of the bucket"
ANYTHING = "check the URL and the configuration of AWS"


def requester_pays() -> bool:
    """Return whether the requester pays for requests, by ``AWS_REQUEST_PAYER=requester``.

    Raises:
        SourceError: The variable has another value.
    """
    value = os.environ.get(REQUEST_PAYER, "")
    if value not in ("", "requester"):
        raise SourceError(f"{REQUEST_PAYER}: got {value!r}, expected requester, or nothing")
    return bool(value)


def permanent_reason(error: BaseException) -> str:
    """Return why no attempt at a request would succeed, and what to do, in a line; empty if another one may succeed."""
    from botocore import exceptions as kinds

    if isinstance(error, kinds.ClientError):
        return _refusal(error)
    if "maximum recursion depth" in str(error):  # boto3 follows a redirect to the same address without end
        return f"the server answers with a redirect; {ELSEWHERE}"
    if isinstance(error, kinds.NoCredentialsError | kinds.PartialCredentialsError | kinds.ProfileNotFound):
        return (
            f"{one_line(error)}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
            "(on Kubernetes in the secret segline-s3), or AWS_PROFILE"
        )
    passing = kinds.HTTPClientError | kinds.ConnectionError | kinds.IncompleteReadError | kinds.FlexibleChecksumError
    if not isinstance(error, passing):
        return f"{one_line(error)}; {ANYTHING}"
    return _tls_fault(one_line(error))


def advice_after_attempts(error: BaseException) -> str:
    """Return what to do when all attempts at a request have failed."""
    from botocore import exceptions as kinds

    again = "run the same command again later"
    if isinstance(error, kinds.ProxyConnectionError):
        return f"are HTTPS_PROXY and NO_PROXY right? If they are, {again}"
    if isinstance(error, kinds.FlexibleChecksumError):
        return f"{again}, or set AWS_RESPONSE_CHECKSUM_VALIDATION=when_required if the server has checksums of its own"
    return f"is AWS_ENDPOINT_URL right? If it is, {again}"


def code_and_status(error: Any) -> tuple[str, int]:
    """Return the code and the HTTP status of an error that the server answered with; empty and 0 for others."""
    from botocore.exceptions import ClientError

    if not isinstance(error, ClientError):
        return "", 0
    return error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]


def _tls_fault(text: str) -> str:
    """Return what is wrong with a certificate or with the file of those that are trusted; empty for other errors."""
    other = re.search(r"hostname \S+ doesn't match .*|(Hostname|IP address) mismatch[^(]*", text)
    if other:
        reason = other[0].strip(" .")
        return f"the certificate is of another server ({reason}); give AWS_ENDPOINT_URL the name in the certificate"
    refused = re.search(r"certificate verify failed: ([^(]*)", text, re.IGNORECASE)
    if refused:
        reason = refused[1].strip(" .")
        if "expired" in reason or "not yet valid" in reason:
            return f"the certificate is not valid now ({reason}); renew it, or set the clock of this machine"
        return (
            f"the certificate is not trusted ({reason}); set AWS_CA_BUNDLE to a file with the certificate of its "
            "authority (SSL_CERT_FILE is not read for buckets)"
        )
    if re.search("invalid path|No such file|NO_CERTIFICATE_OR_CRL_FOUND|X509", text):
        path = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE", "")
        return f"AWS_CA_BUNDLE (or REQUESTS_CA_BUNDLE) {path!r} is no file with certificates; expected one in PEM"
    if re.search("WRONG_VERSION_NUMBER|UNKNOWN_PROTOCOL|HTTP_REQUEST|RECORD_LAYER_FAILURE", text):
        return "the server does not speak TLS there; begin AWS_ENDPOINT_URL with http://, or give it another port"
    return ""


def _refusal(error: Any) -> str:
    """Return why a server refused a request for good, and what to do; empty for a refusal that passes."""
    code, status = code_and_status(error)
    if code in KEY_CODES:
        return f"access denied ({code}); {KEY_CODES[code]}"
    if code == "RequestTimeTooSkewed":
        return f"the clock of this machine is not the server's ({code}){_offset(error)}; synchronize it"
    if status == 301 or code in REGION_CODES:
        return _other_region(error, code)
    if _lacks_checksums(error, status, code):
        return f"the server does not take uploads with boto3's checksums ({code}); set {CHECKSUMS}=when_required"
    if code != "NotImplemented" and (status in (429, 500) or status > 501 or code in TRANSIENT_CODES):
        return ""
    if status in (401, 403) or "Token" in code:
        payer = "" if os.environ.get(REQUEST_PAYER) else f"; if the requester pays there, set {REQUEST_PAYER}=requester"
        return f"access denied ({code}); check the credentials, and their permission to list and to read{payer}"
    return f"{one_line(error)}; {ANYTHING}"


def _lacks_checksums(error: Any, status: int, code: str) -> bool:
    """Return whether an upload was refused for its checksum, which over TLS follows the body (aws-chunked)."""
    if error.operation_name not in WRITES or os.environ.get(CHECKSUMS, "").lower() == "when_required":
        return False
    message = error.response["Error"].get("Message", "").lower()
    named = re.search("trailer|aws-chunked|content-sha256|checksum", message) is not None
    return code in NO_CHECKSUM_CODES or status in (411, 501) or (400 <= status < 500 and named)


def _other_region(error: Any, code: str) -> str:
    headers = error.response["ResponseMetadata"].get("HTTPHeaders", {})
    region = error.response["Error"].get("Region") or headers.get("x-amz-bucket-region")
    if not region:
        return f"the bucket is elsewhere ({code}); {ELSEWHERE}"
    return (
        f"the bucket is in the region {region} ({code}); set AWS_DEFAULT_REGION={region}, and AWS_ENDPOINT_URL if set"
    )


def _offset(error: Any) -> str:
    """Return by how much the clock is off, if the server says what time it is."""
    try:
        there = parsedate_to_datetime(error.response["ResponseMetadata"]["HTTPHeaders"]["date"])
        return f", it is off by {(datetime.now(UTC) - there).total_seconds():.0f} s"
    except (KeyError, TypeError, ValueError):
        return ""
