"""What was registered is what is loaded: self-test, digests and signatures of a package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import onnx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from onnx import numpy_helper

from core.errors import UserError
from model.inference import golden
from model.inference.engines import ENGINES, ONNX
from model.weights import WEIGHTS
from registry.fetch import fetch
from registry.packages import load
from registry.seal import (
    DIGESTS,
    PACKAGE_TAG,
    SIGNATURE,
    SIGNATURES,
    SIGNING_CERTIFICATES,
    SIGNING_KEY,
    VERIFYING_CERTIFICATES,
    VERIFYING_KEY,
    seal,
    verify,
)
from tests.conftest import Project, refused
from tests.serving.serving import NAME


@pytest.fixture
def sealed(package: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "package"
    shutil.copytree(package, copy)
    seal(copy)
    return copy


def zeroed(path: Path) -> None:
    """Make an ONNX file whose network gives the same to every pixel."""
    model = onnx.load(path)
    for each in model.graph.initializer:
        values = numpy_helper.to_array(each)
        if values.dtype == np.float32:
            each.CopyFrom(numpy_helper.from_array(np.zeros_like(values), each.name))
    onnx.save(model, path)


# Self-test


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "compile"])
def test_every_engine_passes_the_self_test(package: Path, engine: str) -> None:
    opened = load(package, engine)
    picture = golden.draw(opened.contract.size)
    expected = golden._read(package / golden.EXPECTED) / np.float32(golden.STEPS)
    difference = np.abs(opened.engine.probabilities(picture[None])[0] - expected).mean()
    assert difference <= golden.TOLERANCE / 2


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_onnx_file_of_another_network_is_refused(package: Path, tmp_path: Path, engine: str) -> None:
    copy = tmp_path / "package"
    shutil.copytree(package, copy)
    zeroed(copy / ONNX)
    with pytest.raises(UserError, match=rf"not a model package .*{engine} fails the package's self-test by 0\.\d+"):
        load(copy, engine)
    assert load(copy, "torch").engine.name == "torch"  # the weights are good: it is the engine's file that is not


def test_a_package_of_an_earlier_release_has_no_self_test(package: Path, tmp_path: Path) -> None:
    copy = tmp_path / "package"
    shutil.copytree(package, copy)
    (copy / golden.PICTURE).unlink()
    assert load(copy, "onnxruntime")


# Digests


@pytest.mark.parametrize("name", [WEIGHTS, ONNX, "contract.json", "card.json", "code/model/lungs.py", golden.EXPECTED])
def test_one_altered_byte_is_refused(sealed: Path, name: str) -> None:
    assert fetch(str(sealed), sealed.parent) == sealed
    data = bytearray((sealed / name).read_bytes())
    data[len(data) // 2] ^= 1
    (sealed / name).write_bytes(bytes(data))
    with pytest.raises(UserError, match=rf"{name} is not the file that was registered"):
        fetch(str(sealed), sealed.parent)


def test_a_missing_and_an_added_file_are_refused(sealed: Path) -> None:
    (sealed / "extra.py").write_text("print()")
    with pytest.raises(UserError, match=r"extra\.py is not the file that was registered"):
        verify(sealed)
    (sealed / "extra.py").unlink()
    (sealed / ".used").touch()  # a mark of this machine
    verify(sealed)
    (sealed / ONNX).unlink()
    with pytest.raises(UserError, match=rf"{ONNX} is missing"):
        verify(sealed)


def test_digests_that_were_altered_too_are_refused_by_the_registrys_tag(sealed: Path) -> None:
    expected = seal(sealed)
    (sealed / ONNX).write_bytes(b"other")
    seal(sealed)
    verify(sealed)
    with pytest.raises(UserError, match=f"{DIGESTS} is not the one that was registered"):
        verify(sealed, expected)
    (sealed / DIGESTS).unlink()
    with pytest.raises(UserError, match=f"has no {DIGESTS}"):
        verify(sealed, expected)


def test_an_altered_artifact_of_the_registry_is_refused(registry: Project, tmp_path: Path) -> None:
    version = registry.client().get_model_version(NAME, "1")
    assert len(version.tags[PACKAGE_TAG]) == 64
    folder = fetch_of(registry, tmp_path / "cache")
    weights = folder / WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(registry.root)
        with pytest.raises(UserError, match=rf"{WEIGHTS} is not the file that was registered"):
            fetch_of(registry, tmp_path / "cache")  # what was downloaded before is verified again


def fetch_of(project: Project, to: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.root)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.root / 'mlflow.db'}")
        return fetch(f"models:/{NAME}/1", to)


# Signatures


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return pair(tmp_path, "ours")


def pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Return a private and a public key in PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    plain = serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(pem, pkcs8, plain))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_signed_package_is_verified(
    sealed: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VERIFYING_KEY, str(keys[1]))
    with pytest.raises(UserError, match="is not signed; set DEFUNET_SIGNING_KEY and register it again"):
        verify(sealed)
    monkeypatch.setenv(SIGNATURES, "warn")
    verify(sealed)
    assert "warning: " in capsys.readouterr().err
    monkeypatch.delenv(SIGNATURES)

    monkeypatch.setenv(SIGNING_KEY, str(keys[0]))
    seal(sealed)
    verify(sealed)
    (sealed / ".used").touch()
    verify(sealed)
    line = ["verify", "key", str(sealed), "--signature", str(sealed / SIGNATURE), "--public_key", str(keys[1])]
    ignored = ["--ignore-paths", str(sealed / SIGNATURE), "--ignore-paths", str(sealed / ".used")]
    outside = subprocess.run(
        [sys.executable, "-m", "model_signing", *line, *ignored], capture_output=True, text=True, check=False
    )
    assert outside.returncode == 0, outside.stderr


def certified(
    folder: Path, name: str, root: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Write a key and a certificate signed by ``root``, or by itself, as ``name``.pem and ``name``.crt."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(root[0].subject if root else subject, subject, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=root is None, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=root is None, crl_sign=root is None, **usage),
            critical=True,
        )
        .sign(root[1] if root else key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / f"{name}.crt").write_bytes(made.public_bytes(pem))
    (folder / f"{name}.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return made, key


def test_a_package_signed_by_a_certificate_is_verified_by_its_root(
    sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = (certified(tmp_path, name, None) for name in ("ours", "theirs"))
    certified(tmp_path, "signer", ours)
    monkeypatch.setenv(SIGNING_KEY, str(tmp_path / "signer.pem"))
    monkeypatch.setenv(SIGNING_CERTIFICATES, str(tmp_path / "signer.crt"))
    seal(sealed)
    monkeypatch.setenv(VERIFYING_CERTIFICATES, str(tmp_path / "ours.crt"))
    verify(sealed)
    verify(sealed, signatures="require")
    monkeypatch.setenv(VERIFYING_CERTIFICATES, str(tmp_path / "theirs.crt"))
    with pytest.raises(UserError, match="its signature is not by what DEFUNET_VERIFYING_CERTIFICATES names"):
        verify(sealed)
    verify(sealed, signatures="off")
    assert theirs[0] != ours[0]


def test_the_parameters_ask_for_signatures(
    sealed: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="its signature cannot be verified"):
        verify(sealed, signatures="require")
    with pytest.raises(UserError, match="its signature cannot be verified"):
        fetch(str(sealed), sealed.parent, signatures="require")
    monkeypatch.setenv(SIGNATURES, "require")
    verify(sealed, signatures="off")
    monkeypatch.delenv(SIGNATURES)
    monkeypatch.setenv(VERIFYING_KEY, "nowhere.pem")
    monkeypatch.setenv(SIGNING_KEY, str(keys[0]))
    seal(sealed)
    with pytest.raises(UserError, match=r"^DEFUNET_VERIFYING_KEY=nowhere.pem: cannot be used to verify signatures"):
        verify(sealed)
    seal(sealed)
    monkeypatch.setenv(VERIFYING_KEY, str(keys[1]))
    verify(sealed, signatures="require")


def test_without_a_network_a_keyless_signature_is_one_line(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SIGNING_KEY, "keyless")
    with pytest.raises(UserError, match=r"^DEFUNET_SIGNING_KEY=keyless: the package cannot be signed \(.*\)$"):
        seal(sealed)


def test_another_key_and_another_file_are_refused(
    sealed: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SIGNING_KEY, str(keys[0]))
    seal(sealed)
    monkeypatch.setenv(VERIFYING_KEY, str(pair(tmp_path, "theirs")[1]))
    with pytest.raises(UserError, match="its signature is not by what DEFUNET_VERIFYING_KEY names"):
        verify(sealed)
    monkeypatch.setenv(VERIFYING_KEY, str(keys[1]))
    verify(sealed)
    # Whoever can write the files can make digests that fit them, and no signature.
    (sealed / ONNX).write_bytes(b"other")
    monkeypatch.delenv(SIGNING_KEY)
    seal(sealed)
    with pytest.raises(UserError, match="its signature is not by what DEFUNET_VERIFYING_KEY names"):
        verify(sealed)


def test_keys_and_modes_that_cannot_be_used_are_one_line(
    sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SIGNING_KEY, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere: the package cannot be signed"):
        seal(sealed)
    monkeypatch.setenv(SIGNATURES, "perhaps")
    with pytest.raises(UserError, match="takes require, warn, off or auto"):
        verify(sealed)
    monkeypatch.setenv(SIGNATURES, "require")
    with pytest.raises(UserError, match=f"cannot be verified; set {VERIFYING_KEY}"):
        verify(sealed)


def test_predict_refuses_in_one_line(trained_line: list[str], sealed: Path, registry: Project) -> None:
    (sealed / "card.json").write_text(json.dumps({"name": "other"}))
    message = refused(registry.call(trained_line))
    assert "card.json is not the file that was registered" in message


@pytest.fixture
def trained_line(sealed: Path, registry: Project, tmp_path: Path) -> list[str]:
    from tests.serving.serving import chest, png

    (tmp_path / "x.png").write_bytes(png(chest()))
    return registry.line("predict", tmp_path / "x.png", "--model", sealed, "-o", tmp_path / "out")
