"""model.pretrained: from a cache as the libraries do it, or one clear error in time."""

from __future__ import annotations

import argparse
import hashlib
import http.server
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import HUNG_S
from safetensors.torch import save_file
from torchvision import models

from lrexp.build.data import StatedData
from lrexp.build.model import build_model
from lrexp.config.errors import ConfigError
from lrexp.models import pretrained
from lrexp.models.pretrained import expected_input, pretrained_file
from lrexp.models.weights import weights_fingerprint

TORCHVISION = "squeezenet1_1"
TIMM = "mobilenetv3_small_050"


def stated(classes: int, channels: int = 3, side: int = 64) -> StatedData:
    names = tuple(f"class {i}" for i in range(classes))
    return StatedData((channels, side, side), names, 100, exact=True)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Empty caches, and a proxy that refuses every connection."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the proxies
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    try:
        from huggingface_hub import constants
    except ImportError:
        return
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def in_torch_cache(tmp_path: Path) -> dict[str, torch.Tensor]:
    """The state_dict that lies where torchvision looks for its weights."""
    torch.manual_seed(7)
    state = models.get_model(TORCHVISION).state_dict()
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(state, folder / "squeezenet1_1-b8a52dc0.pth")
    return state


def test_torchvisions_weights_load_strictly_and_the_head_is_replaced(
    compose: Any, in_torch_cache: dict[str, torch.Tensor]
) -> None:
    config = compose(f"model={TORCHVISION}", "model.pretrained=true")
    model, layers = build_model(config, stated(7))
    theirs = models.get_model(TORCHVISION, weights="DEFAULT").state_dict()  # from the same cache
    for name, tensor in model.state_dict().items():
        if name.startswith("classifier.1."):
            assert tensor.shape[0] == 7
        else:
            assert torch.equal(tensor, theirs[name])
    assert {p.name for p in layers.parameters if p.source == "fresh"} == {
        "classifier.1.weight",
        "classifier.1.bias",
    }
    file = pretrained_file("torchvision", TORCHVISION)
    assert file.name == "squeezenet1_1-b8a52dc0.pth"
    digest = hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()
    assert weights_fingerprint(file) == digest


def test_the_head_is_kept_for_imagenets_own_classes(
    compose: Any, in_torch_cache: dict[str, torch.Tensor]
) -> None:
    config = compose(f"model={TORCHVISION}", "model.pretrained=true")
    names = models.get_model_weights(TORCHVISION).DEFAULT.meta["categories"]
    model, _ = build_model(config, StatedData((3, 64, 64), tuple(names), 10, exact=True))
    assert torch.equal(
        model.state_dict()["classifier.1.weight"], in_torch_cache["classifier.1.weight"]
    )


def test_grey_images_get_the_kernel_summed_and_random_numbers_stay_as_they_were(
    compose: Any, in_torch_cache: dict[str, torch.Tensor]
) -> None:
    config = compose(f"model={TORCHVISION}", "model.pretrained=true")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model, layers = build_model(config, stated(7, channels=1))
    assert torch.equal(torch.get_rng_state(), before)
    kernel = in_torch_cache["features.0.weight"].sum(1, keepdim=True)
    assert torch.equal(model.state_dict()["features.0.weight"], kernel)
    sources = {p.name: p.source for p in layers.parameters}
    assert sources["features.0.weight"] == "loaded"


@pytest.mark.parametrize("name", [TORCHVISION, "resnet18", "vit_b_16", "swin_t", "googlenet"])
def test_a_plan_of_pretrained_networks_needs_neither_cache_nor_network(
    compose: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(pretrained, "_fetch", fetched)
    config = compose("model=torchvision", f"model.name={name}", "model.pretrained=true")
    _, layers = build_model(config, stated(7, channels=1, side=224), meta=True)
    assert {p.name for p in layers.parameters if p.source == "fresh"} == {
        p.name for p in layers.parameters if p.head
    }


def test_a_pretrained_network_with_another_stem_needs_to_be_asked_for(compose: Any) -> None:
    overrides = ("model=resnet18", "model.pretrained=true", "model.stem=small")
    with pytest.raises(ConfigError, match=r"mismatched conv1\.weight is \(64, 3, 7, 7\)"):
        build_model(compose(*overrides), stated(7), meta=True)
    config = compose(*overrides, "model.strict=false")
    _, layers = build_model(config, stated(7), meta=True)
    fresh = {p.name for p in layers.parameters if p.source == "fresh"}
    assert fresh == {"conv1.weight", "fc.weight", "fc.bias"}


def test_timms_weights_load_as_timm_loads_them(compose: Any, tmp_path: Path) -> None:
    timm: Any = pytest.importorskip("timm")
    config = compose("model=timm", f"model.name={TIMM}", "model.pretrained=true")
    plan = build_model(config, stated(7, channels=1), meta=True)[1]  # from an empty cache
    torch.manual_seed(7)
    repository = timm.get_pretrained_cfg(TIMM).hf_hub_id.replace("/", "--")
    snapshot = tmp_path / "hub" / f"models--{repository}" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("a" * 40)
    save_file(timm.create_model(TIMM).state_dict(), snapshot / "model.safetensors")
    model, layers = build_model(config, stated(7, channels=1))
    local = {"file": str(snapshot / "model.safetensors")}
    theirs = timm.create_model(
        TIMM, pretrained=True, num_classes=7, in_chans=1, pretrained_cfg_overlay=local
    ).state_dict()
    head = ("classifier.weight", "classifier.bias")
    assert all(torch.equal(t, theirs[n]) for n, t in model.state_dict().items() if n not in head)
    assert {p.name for p in layers.parameters if p.source == "fresh"} == set(head)
    assert plan == layers
    assert pretrained_file("timm", TIMM) == snapshot / "model.safetensors"


@pytest.mark.parametrize(
    ("library", "name", "expected"),
    [
        ("torchvision", "resnet18", (r"download\.pytorch\.org", "resnet18-f37072fd.pth")),
        ("timm", TIMM, ("huggingface", "timm/mobilenetv3_small_050")),
    ],
)
def test_without_network_one_error_says_what_takes_a_local_file_and_nothing_is_left(
    compose: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], library: str, name: str,
    expected: tuple[str, str],
) -> None:  # fmt: skip
    pytest.importorskip(library)
    config = compose(f"model={library}", f"model.name={name}", "model.pretrained=true")
    build_model(config, stated(7), meta=True)  # imports what takes time
    with pytest.raises(ConfigError, match=rf"model\.pretrained=true: .*{expected[0]}") as caught:
        build_model(config, stated(7))
    assert "model.weights=FILE takes a local file" in str(caught.value)
    assert expected[1] in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_server_that_never_answers_is_given_up_in_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(pretrained, "REACH_S", 0.3)
        with pytest.raises(ConfigError, match=r"cannot give them: (no answer in 0\.3 s|timed out)"):
            pretrained._from_url("http://example.org/net-12345678.pth")


def test_a_name_look_up_that_takes_for_ever_is_given_up_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: released.wait(HUNG_S) and [])
    monkeypatch.setattr(pretrained, "REACH_S", 0.2)
    with pytest.raises(ConfigError, match=r"cannot give them: no answer in 0\.2 s"):
        pretrained._from_url("http://example.org/net-12345678.pth")
    assert not released.is_set()  # nobody waited for it
    released.set()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """Address of a web server that gives out b'weights' for every .pth, and what it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            self.send_response(200 if self.path.endswith(".pth") else 404)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(b"weights")

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}", asked
        serving.shutdown()
        thread.join()


def test_what_is_fetched_is_kept_only_when_its_hash_is_the_names(
    server: tuple[str, list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address, asked = server
    right = hashlib.sha256(b"weights").hexdigest()[:8]
    file = pretrained._from_url(f"{address}/net-{right}.pth")
    assert file == tmp_path / "torch" / "hub" / "checkpoints" / f"net-{right}.pth"
    assert file.read_bytes() == b"weights"
    assert asked == [f"HEAD /net-{right}.pth", f"GET /net-{right}.pth"]
    assert pretrained._from_url(f"{address}/net-{right}.pth") == file
    assert len(asked) == 2  # the second time it came from the cache
    for name, problem in (("net-00000000.pth", "invalid hash value"), ("net.txt", "404")):
        with pytest.raises(ConfigError, match=problem):
            pretrained._from_url(f"{address}/{name}")
    assert list(file.parent.iterdir()) == [file]
    assert capfd.readouterr() == ("", "")


def test_a_broken_file_in_the_cache_is_named(
    compose: Any, in_torch_cache: object, tmp_path: Path
) -> None:
    (file,) = (tmp_path / "torch").rglob("*.pth")
    config = compose(f"model={TORCHVISION}", "model.pretrained=true")
    half = file.read_bytes()[:1000]
    torch.save({"weights": argparse.Namespace()}, file)
    for content, problem in (
        (half, r"is a damaged or incomplete checkpoint of torch\.save \(1,000 bytes\)"),
        (file.read_bytes(), r"holds objects beside tensors, of argparse\.Namespace; .*"),
    ):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=rf"=true: {file} {problem}\n  remove {file}"):
            build_model(config, stated(7))


def test_networks_without_weights_are_refused_before_anything_is_fetched(compose: Any) -> None:
    pytest.importorskip("timm")
    config = compose("model=timm", "model.name=resnet50_gn.nothing", "model.pretrained=true")
    with pytest.raises(ConfigError, match="Invalid pretrained tag"):
        build_model(config, stated(7), meta=True)
    config = compose("model=timm", "model.name=vit_base_patch32_plus_256", "model.pretrained=true")
    with pytest.raises(ConfigError, match=r"timm has no weights for vit_base_patch32_plus_256\n"):
        build_model(config, stated(7, side=256), meta=True)


@pytest.mark.parametrize(
    ("library", "name"), [("torchvision", "resnet50"), ("timm", "vit_base_patch16_224")]
)
def test_what_pretrained_weights_expect_of_images_is_the_librarys_own_word(
    compose: Any, library: str, name: str
) -> None:
    pytest.importorskip(library)
    overrides = (f"model={library}", f"model.name={name}")
    assert expected_input(compose(*overrides).model) is None
    found = expected_input(compose(*overrides, "model.pretrained=true").model)
    assert found is not None
    if library == "timm":
        assert (found.mean, found.std, found.size) == ((0.5,) * 3, (0.5,) * 3, 224)
    else:
        assert found.mean == (0.485, 0.456, 0.406)
        assert (found.std, found.size) == ((0.229, 0.224, 0.225), 224)
