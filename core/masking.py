"""Hide passwords, tokens and keys in text that is printed or logged."""

from __future__ import annotations

import os
import re

# Variables that may hold an address with a password.
ADDRESSES = ("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "MLFLOW_S3_ENDPOINT_URL")
HIDDEN = "***"
_PARAMETER = re.compile(
    r"([?&](?:[\w-]*(?:token|password|passwd|secret|signature|credential|apikey|api_key|key))=)[^&\s#'\"]+",
    re.IGNORECASE,
)


_TOKEN = re.compile(r"://[^/:@\s]+@(?![^/\s]*\*{3}@)")  # skips a user whose password is already hidden


def mask_address(address: str) -> str:
    """Return an address without its password or token, in the user part and in the query."""
    # A password may contain any character, even "@", "/" and spaces, so everything up to the last "@" is hidden.
    address = re.sub(r"(://[^/:@]*(?:@[^/:]*)?):.*@", rf"\1:{HIDDEN}@", address, flags=re.DOTALL)
    # A user part without a colon is a token, as in a Git host's URL.
    return _PARAMETER.sub(rf"\1{HIDDEN}", _TOKEN.sub(f"://{HIDDEN}@", address))


def mask(text: str) -> str:
    """Hide the passwords and tokens of all addresses in a text; when in doubt, it hides too much."""
    for name in ADDRESSES:
        if address := os.environ.get(name):
            text = text.replace(address, mask_address(address))
    text = re.sub(r"(://[^/:\s@]*(?:@[^/:\s]*)?):(?!\*{3}@)\S*@", rf"\1:{HIDDEN}@", text)
    return _PARAMETER.sub(rf"\1{HIDDEN}", _TOKEN.sub(f"://{HIDDEN}@", text))
