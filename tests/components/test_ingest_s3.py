"""Ingest from a real S3 server, also through a line that breaks."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boto3.s3.transfer import TransferConfig

from components.ingest import ingest, s3
from core.s3 import damage, make_client, multipart_etag
from tests.components.test_ingest import PARAMS, Command, refusal
from tests.components.test_ingest_zip import same_cohort, zipped
from tests.daily import daily
from tests.services import Bucket

XRAY = "MontgomerySet/CXR_png/MCUCXR_0001_1.png"


def deny(bucket: Bucket, *keys: str) -> None:
    """Let nobody read these keys (``*`` stands for any text); none lifts what was forbidden before."""
    if not keys:
        bucket.client.delete_bucket_policy(Bucket=bucket.name)
        return
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": [f"arn:aws:s3:::{bucket.name}/{key}" for key in keys],
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=policy)


def left_over(folder: Path) -> list[Path]:
    return list(folder.glob(".download-*"))


def test_a_prefix_gives_what_its_folder_gives(bucket: Bucket, cohort: Path, tmp_path: Path) -> None:
    bucket.upload(cohort, "data/cxr/")
    bucket.client.put_object(Bucket=bucket.name, Key="data/cxr/", Body=b"")  # how a console shows a folder
    bucket.client.put_object(Bucket=bucket.name, Key="data/cxr2/" + XRAY.replace("0001", "0009"), Body=b"not meant")
    plain = ingest(str(cohort), PARAMS, tmp_path / "plain").folder
    for number, url in enumerate((f"s3://{bucket.name}/data/cxr", f"s3://{bucket.name}/data/cxr/")):
        result = ingest(url, PARAMS, tmp_path / f"raw{number}")
        assert result.name == "cxr"
        assert same_cohort(plain, result.folder)
        assert json.loads((result.folder / "cohort.json").read_text())["source"] == url
    assert left_over(tmp_path) == []


def test_a_whole_bucket_a_zip_and_a_prefix_of_zips(bucket: Bucket, cohort: Path, tmp_path: Path) -> None:
    plain = ingest(str(cohort), PARAMS, tmp_path / "plain").folder
    client = bucket.client
    client.put_object(Bucket=bucket.name, Key="z/all.zip", Body=zipped(cohort, tmp_path / "a.zip").read_bytes())
    for url in (f"s3://{bucket.name}/z/all.zip", f"s3://{bucket.name}/z", f"s3://{bucket.name}"):
        result = ingest(url, PARAMS, tmp_path / "raw")
        assert same_cohort(plain, result.folder), url


def test_unreadable_keys_are_listed_with_all_other_problems(bucket: Bucket, cohort: Path, tmp_path: Path) -> None:
    (cohort / "MontgomerySet/CXR_png/MCUCXR_0002_0.png").write_bytes(b"text")
    bucket.upload(cohort, "cxr/")
    deny(bucket, f"cxr/{XRAY}", "cxr/ChinaSet_AllFiles/mask/CHNCXR_0001_1_mask.png")
    url = f"s3://{bucket.name}/cxr"
    denied = "access denied; ask the bucket's owner for s3:GetObject, or use other credentials"
    assert refusal(url, tmp_path / "raw").problems == [
        f"{url}/ChinaSet_AllFiles/mask/CHNCXR_0001_1_mask.png: {denied}",
        f"{url}/MontgomerySet/CXR_png/MCUCXR_0001_1.png: {denied}",
        f"{url}/MontgomerySet/CXR_png/MCUCXR_0002_0.png: not a PNG image, despite its name; replace or remove it",
    ]


def test_what_was_fetched_is_not_fetched_again(bucket: Bucket, cohort: Path, tmp_path: Path) -> None:
    whole = (cohort / XRAY).read_bytes()
    (cohort / XRAY).write_bytes(whole[:-20])
    bucket.upload(cohort, "cxr/")
    url = f"s3://{bucket.name}/cxr"
    refusal(url, tmp_path / "raw")
    assert len(left_over(tmp_path)) == 1
    bucket.client.put_object(Bucket=bucket.name, Key=f"cxr/{XRAY}", Body=whole)
    deny(bucket, "cxr/ChinaSet*", "cxr/*Mask*", "cxr/*Readings*", "cxr/*0002*")
    assert ingest(url, PARAMS, tmp_path / "raw").sites["shenzhen"].images == 3
    assert left_over(tmp_path) == []


def test_a_spoilt_earlier_download_is_fetched_again(bucket: Bucket, cohort: Path, tmp_path: Path) -> None:
    bucket.upload(cohort, "cxr/")
    url = f"s3://{bucket.name}/cxr"
    deny(bucket, f"cxr/{XRAY}")
    refusal(url, tmp_path / "raw")
    (folder,) = left_over(tmp_path)
    for file in folder.iterdir():
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    deny(bucket)
    plain = ingest(str(cohort), PARAMS, tmp_path / "plain").folder
    assert same_cohort(plain, ingest(url, PARAMS, tmp_path / "raw").folder)


def test_an_object_replaced_in_the_bucket_is_fetched_anew(bucket: Bucket, cohort: Path, tmp_path: Path) -> None:
    bucket.upload(cohort, "cxr/")
    url = f"s3://{bucket.name}/cxr"
    deny(bucket, "cxr/ChinaSet_AllFiles/CXR_png/CHNCXR_0003_1.png")
    refusal(url, tmp_path / "raw")
    (cohort / XRAY).write_bytes((cohort / XRAY.replace("0001_1", "0002_0")).read_bytes())
    bucket.upload(cohort, "cxr/")
    deny(bucket)
    ingest(url, PARAMS, tmp_path / "raw")
    assert (tmp_path / "raw/images/montgomery/MCUCXR_0001_1.png").read_bytes() == (cohort / XRAY).read_bytes()


def test_no_bucket_no_key_no_credentials_no_server(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(url: str) -> str:
        text = str(refusal(url, tmp_path / "raw"))
        assert "\n" not in text
        assert text.startswith(f"{url}: ")
        return text

    assert "no such bucket" in said("s3://there-is-none/cxr")
    assert "not a valid bucket name" in said("s3://no bucket/cxr")
    assert "no bucket named" in said("s3:///cxr")
    assert "it has no files; check the address" in said(f"s3://{bucket.name}/nothing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "the credentials are refused (SignatureDoesNotMatch)" in said(f"s3://{bucket.name}/cxr")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
    assert "the credentials are refused (InvalidAccessKeyId)" in said(f"s3://{bucket.name}/cxr")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no credentials; set AWS_ACCESS_KEY_ID" in said(f"s3://{bucket.name}/cxr")
    monkeypatch.setenv("AWS_PROFILE", "unknown")
    assert "check the AWS settings" in said(f"s3://{bucket.name}/cxr")
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "owner")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "S3 cannot be reached" in said(f"s3://{bucket.name}/cxr")


def test_the_command_tells_a_missing_bucket_in_one_line(bucket: Bucket, tmp_path: Path, command: Command) -> None:
    done = command("components.ingest", "s3://there-is-none/cxr", "--out", tmp_path / "raw")
    assert done.returncode == 1
    assert done.stderr == (
        "error: s3://there-is-none/cxr: no such bucket; check its name, and AWS_ENDPOINT_URL unless it is on AWS\n"
    )


class Line(socketserver.ThreadingTCPServer):
    """A line to the S3 server that breaks: so many ``times`` after ``cut`` bytes, after ``budget`` bytes for good."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, target: tuple[str, int]) -> None:
        self.target, self.lock = target, threading.Lock()
        self.carried, self.broken, self.times, self.cut, self.budget = 0, 0, 0, 0, float("inf")
        super().__init__(("127.0.0.1", 0), Call)

    def handle_error(self, *_: Any) -> None:
        """A broken connection is what this server is for."""

    def may_carry(self, amount: int, so_far: int) -> bool:
        with self.lock:
            if self.carried + amount > self.budget:
                return False
            if self.times and so_far + amount > self.cut:
                self.times -= 1
                self.broken += 1
                return False
            self.carried += amount
            return True


class Call(socketserver.BaseRequestHandler):
    server: Line

    def handle(self) -> None:
        with socket.create_connection(self.server.target) as upstream:
            threading.Thread(target=self.carry_questions, args=(upstream,), daemon=True).start()
            so_far = 0
            while (data := upstream.recv(65536)) and self.server.may_carry(len(data), so_far):
                so_far += len(data)
                self.request.sendall(data)

    def carry_questions(self, upstream: socket.socket) -> None:
        try:
            while data := self.request.recv(65536):
                upstream.sendall(data)
        except OSError:
            return


@pytest.fixture
def line(bucket: Bucket, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    host, port = s3_server.removeprefix("http://").split(":")
    with Line((host, int(port))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        yield server
        server.shutdown()


@pytest.fixture
def large_zip(bucket: Bucket, cohort: Path, tmp_path: Path) -> Path:
    """A ZIP of 40 MB, uploaded in parts of 6 MB as ``large.zip``."""
    path = zipped(cohort, tmp_path / "large.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("figures/noise.bin", np.random.default_rng(0).bytes(40_000_000))
    parts = TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=6 << 20)
    bucket.client.upload_file(str(path), bucket.name, "large.zip", Config=parts)
    return path


def test_answers_that_break_off_are_asked_for_again(
    line: Line, large_zip: Path, bucket: Bucket, cohort: Path, tmp_path: Path
) -> None:
    line.times, line.cut = 3, 5_000_000
    result = ingest(f"s3://{bucket.name}/large.zip", PARAMS, tmp_path / "raw")
    assert line.broken == 3
    assert same_cohort(ingest(str(cohort), PARAMS, tmp_path / "plain").folder, result.folder)


def test_a_broken_download_keeps_whole_objects_alone(
    line: Line, large_zip: Path, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.client.put_object(Bucket=bucket.name, Key="figures.zip", Body=large_zip.read_bytes())
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("components.ingest.s3.WORKERS", 1)  # one object after the other: figures.zip comes whole
    url, size = f"s3://{bucket.name}", large_zip.stat().st_size
    line.budget = size + 20_000_000
    refusal(url, tmp_path / "raw")
    (folder,) = left_over(tmp_path)
    assert [file.stat().st_size for file in folder.iterdir()] == [size]
    (folder / "0123.partial.4567").write_bytes(b"what a killed run leaves of an object")
    bucket.client.delete_object(Bucket=bucket.name, Key="large.zip")
    line.budget, line.carried = float("inf"), 0
    assert ingest(url, PARAMS, tmp_path / "raw").sites["montgomery"].images == 2
    assert line.carried < 100_000
    assert left_over(tmp_path) == []


def test_an_object_replaced_while_it_is_fetched_is_told(
    bucket: Bucket, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.upload(cohort, "cxr/")
    listed = s3._list

    def replaced(*arguments: Any) -> dict[str, Any]:
        objects = listed(*arguments)
        bucket.client.put_object(Bucket=bucket.name, Key=f"cxr/{XRAY}", Body=b"another")
        return objects

    monkeypatch.setattr(s3, "_list", replaced)
    url = f"s3://{bucket.name}/cxr"
    assert refusal(url, tmp_path / "raw").problems == [f"{url}/{XRAY}: changed during the download; run again"]


def test_a_line_that_stays_dead_is_told(
    line: Line, bucket: Bucket, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.upload(cohort, "cxr/")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    line.budget = 0
    text = str(refusal(f"s3://{bucket.name}/cxr", tmp_path / "raw"))
    assert "S3 cannot be reached" in text
    assert "\n" not in text


@pytest.fixture
def uploaded(bucket: Bucket, tmp_path: Path) -> Callable[[list[int], dict[str, str]], tuple[dict[str, Any], Path]]:
    """Upload a file in parts of the given sizes; return what S3 says of it, and the file."""

    def upload(sizes: list[int], extra: dict[str, str]) -> tuple[dict[str, Any], Path]:
        client, target = bucket.client, {"Bucket": bucket.name, "Key": "file"}
        path = tmp_path / "file"
        path.write_bytes(np.random.default_rng(sum(sizes)).bytes(sum(sizes)))
        if len(sizes) == 1:
            client.put_object(**target, Body=path.read_bytes(), **extra)
        else:
            upload_id = client.create_multipart_upload(**target)["UploadId"]
            parts = []
            with path.open("rb") as file:
                for number, size in enumerate(sizes, 1):
                    part = client.upload_part(**target, UploadId=upload_id, PartNumber=number, Body=file.read(size))
                    parts.append({"ETag": part["ETag"], "PartNumber": number})
            client.complete_multipart_upload(**target, UploadId=upload_id, MultipartUpload={"Parts": parts})
        return client.head_object(**target, ChecksumMode="ENABLED"), path

    return upload


MB = 1 << 20


@pytest.mark.parametrize(
    ("sizes", "extra", "what"),
    daily(
        [
            ([1000], {}, "its MD5 is not its ETag"),
            ([1000], {"ChecksumAlgorithm": "SHA256"}, "its SHA-256 is not the object's"),
            ([5 * MB, 5 * MB, 1000], {}, "its parts' MD5s are not its ETag"),
            ([5 * MB, 5 * MB], {}, "its parts' MD5s are not its ETag"),
            ([5 * MB, 6 * MB, 1000], {}, "its parts' MD5s are not its ETag"),
        ],
        0,
        4,
    ),
    ids=["md5", "sha-256", "parts", "even parts", "uneven parts"],
)
def test_one_changed_byte_is_noticed(
    bucket: Bucket, uploaded: Any, sizes: list[int], extra: dict[str, str], what: str
) -> None:
    about, path = uploaded(sizes, extra)
    assert ("ChecksumSHA256" in about) == bool(extra)
    client = make_client(1)
    assert damage(client, bucket.name, "file", about, path) == ""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert damage(client, bucket.name, "file", about, path) == what


def test_a_multipart_etag_is_what_s3_computes(bucket: Bucket, uploaded: Any) -> None:
    for sizes in ([5 * MB, 5 * MB, 7], [5 * MB, 8 * MB]):
        about, path = uploaded(sizes, {})
        assert multipart_etag(path, sizes) == about["ETag"].strip('"')
