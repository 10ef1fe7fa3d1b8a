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


_TOKEN = re.compile(r"://[^/:@\s]+@(?![^/\s]*\*{3}@)")  # not the user of a password that is hidden already


def mask_address(address: str) -> str:
    """Return an address without its password or token, in the user part and in the query."""
    # A password may hold anything, "@", "/" and spaces too: up to the last "@" all of it may be the password.
    address = re.sub(r"(://[^/:@]*(?:@[^/:]*)?):.*@", rf"\1:{HIDDEN}@", address, flags=re.DOTALL)
    # A user part without a colon is a token, as of a Git host.
    return _PARAMETER.sub(rf"\1{HIDDEN}", _TOKEN.sub(f"://{HIDDEN}@", address))


def mask(text: str) -> str:
    """Return text with the passwords and tokens of all addresses in it hidden; rather too much than too little."""
    for name in ADDRESSES:
        if address := os.environ.get(name):
            text = text.replace(address, mask_address(address))
    text = re.sub(r"(://[^/:\s@]*(?:@[^/:\s]*)?):(?!\*{3}@)\S*@", rf"\1:{HIDDEN}@", text)
    return _PARAMETER.sub(rf"\1{HIDDEN}", _TOKEN.sub(f"://{HIDDEN}@", text))
