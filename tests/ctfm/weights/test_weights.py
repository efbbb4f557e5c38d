"""Every layout in the wild, every way a load goes wrong, and nothing changed when it does."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from ignite.engine import Engine
from monai.handlers import CheckpointSaver
from monai.networks.nets import SegResNet
from monai.networks.nets.segresnet_ds import SegResEncoder, SegResNetDS
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import ctfm
from ctfm import weights
from ctfm.base.errors import UserError
from ctfm.base.files import sha256
from ctfm.contract.tasks import ENCODER, SEGRESNET

State = dict[str, Tensor]

TINY = {"spatial_dims": 3, "in_channels": 1, "init_filters": 2, "blocks_down": (1, 1, 1, 1, 1)}
TINY_TENSORS = 65  # conv_init, 4 downsamplings, 5 blocks of 2 convolutions and 2 x 5 of BatchNorm
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every tensor, running statistics included, values that no constructor gives."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            values = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(values + 0.5 if name.endswith("running_var") else (values - 0.5) / 4)
        else:
            tensor.fill_(7)
    return module


def tiny_encoder(seed: int = 0, **arguments: Any) -> SegResEncoder:
    return randomise(SegResEncoder(**(TINY | arguments)), seed)


def tiny_network(seed: int = 1, **arguments: Any) -> SegResNetDS:
    return randomise(SegResNetDS(**(TINY | {"out_channels": 3, "dsdepth": 2} | arguments)), seed)


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def snapshot(module: nn.Module) -> State:
    return copy.deepcopy(dict(module.state_dict()))


@pytest.fixture
def encoder() -> SegResEncoder:
    return tiny_encoder()


@pytest.fixture
def encoder_file(tmp_path: Path, encoder: SegResEncoder) -> Path:
    path = tmp_path / "encoder.safetensors"
    save_file(dict(encoder.state_dict()), path)
    return path


# Layouts: each writes the encoder's state dict as one of the tools in the wild does.


def bare_safetensors(state: State, folder: Path) -> Path:
    save_file(state, folder / "encoder.safetensors")
    return folder / "encoder.safetensors"


def hub_folder(state: State, folder: Path) -> Path:
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text('{"init_filters": 2}')
    return folder


def lone_file_in_folder(state: State, folder: Path) -> Path:
    torch.save(state, folder / "best.ckpt")
    return folder


def plain_state_dict(state: State, folder: Path) -> Path:
    return saved(state, folder)


def legacy_pickle(state: State, folder: Path) -> Path:
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    return folder / "old.pth"


def wrong_suffix(state: State, folder: Path) -> Path:
    save_file(state, folder / "model.pt")
    return folder / "model.pt"


def segresnet(state: State, folder: Path) -> Path:
    network = tiny_network()
    network.encoder.load_state_dict(state)
    save_file(dict(network.state_dict()), folder / "segresnet.safetensors")
    return folder / "segresnet.safetensors"


def distributed(state: State, folder: Path) -> Path:
    return saved(prefixed("module.encoder.", state) | {"module.head.bias": torch.ones(2)}, folder)


def compiled(state: State, folder: Path) -> Path:
    return saved(prefixed("_orig_mod.encoder.", state), folder)


def lightning(prefix: str) -> Callable[[State, Path], Path]:
    def save(state: State, folder: Path) -> Path:
        head = {"projection_head.0.weight": torch.ones(2, 2)}
        content = {
            "epoch": 449,
            "global_step": 225000,
            "state_dict": prefixed(prefix, state) | head,
            "optimizer_states": [{"state": {}, "param_groups": []}],
            "hyper_parameters": {"lr": 1e-4},
        }
        return saved(content, folder)

    return save


def auto3dseg(state: State, folder: Path) -> Path:
    network = tiny_network()
    network.encoder.load_state_dict(state)
    config = {"network": {"_target_": "SegResNetDS"}, "roi_size": [96, 96, 96]}
    return saved({"state_dict": network.state_dict(), "config": config, "epoch": 3}, folder)


def monai_checkpoint(state: State, folder: Path) -> Path:
    """As MONAI's own handler writes it, from a network in training."""
    network = tiny_network()
    network.encoder.load_state_dict(state)
    optimizer = torch.optim.AdamW(network.parameters())
    saver = CheckpointSaver(
        save_dir=str(folder),
        save_dict={"model": network, "optimizer": optimizer},
        save_final=True,
        final_filename="model.pt",
    )
    engine = Engine(lambda _, batch: batch)
    saver.attach(engine)
    engine.run([0], max_epochs=1)
    return folder / "model.pt"


def saved(content: Any, folder: Path) -> Path:
    torch.save(content, folder / "weights.pt")
    return folder / "weights.pt"


LAYOUTS = {
    "bare safetensors": bare_safetensors,
    "hub folder": hub_folder,
    "lone file in a folder": lone_file_in_folder,
    "plain state dict": plain_state_dict,
    "legacy pickle": legacy_pickle,
    "safetensors called .pt": wrong_suffix,
    "SegResNetDS": segresnet,
    "distributed": distributed,
    "compiled": compiled,
    "Lightning backbone": lightning("backbone."),
    "Lightning model.backbone": lightning("model.backbone."),
    "Lightning backbone.encoder": lightning("backbone.encoder."),
    "Auto3DSeg": auto3dseg,
    "MONAI checkpoint": monai_checkpoint,
}
WHOLE = ("SegResNetDS", "Auto3DSeg", "MONAI checkpoint")


@pytest.mark.parametrize("layout", LAYOUTS)
class TestLayouts:
    def test_read_encoder(self, layout: str, tmp_path: Path, encoder: SegResEncoder) -> None:
        source = LAYOUTS[layout](dict(encoder.state_dict()), tmp_path)
        found = weights.read_encoder(source)
        assert found.kind == "encoder"
        assert same(found.tensors, encoder.state_dict())

    def test_load_encoder(self, layout: str, tmp_path: Path, encoder: SegResEncoder) -> None:
        source = LAYOUTS[layout](dict(encoder.state_dict()), tmp_path)
        network = tiny_network(seed=5)
        decoder = snapshot(network.up_layers)
        assert weights.load_encoder(network, source) is network
        assert same(network.encoder.state_dict(), encoder.state_dict())
        assert same(network.up_layers.state_dict(), decoder)

    def test_convert_encoder(self, layout: str, tmp_path: Path, encoder: SegResEncoder) -> None:
        source = LAYOUTS[layout](dict(encoder.state_dict()), tmp_path)
        report = weights.convert(source, tmp_path / "out.safetensors", kind="encoder")
        assert same(load_file(report.path), encoder.state_dict())
        assert (report.kind, report.tensors) == ("encoder", TINY_TENSORS)

    def test_convert_all(self, layout: str, tmp_path: Path, encoder: SegResEncoder) -> None:
        source = LAYOUTS[layout](dict(encoder.state_dict()), tmp_path)
        report = weights.convert(source, tmp_path / "out.safetensors")
        assert report.kind == ("segresnet" if layout in WHOLE else "encoder")


class TestLoadEncoder:
    def test_into_bare_encoder(self, encoder_file: Path, encoder: SegResEncoder) -> None:
        loaded = weights.load_encoder(tiny_encoder(seed=9), encoder_file)
        assert same(loaded.state_dict(), encoder.state_dict())

    def test_says_what_it_loaded(
        self, encoder_file: Path, encoder: SegResEncoder, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, logger="ctfm.weights")
        weights.load_encoder(tiny_network(), encoder_file)
        parameters = sum(parameter.numel() for parameter in encoder.parameters())
        assert caplog.messages == [
            f"encoder: {TINY_TENSORS} of {TINY_TENSORS} tensors, {parameters:,} parameters, "
            f"from {encoder_file} (sha256 {sha256(encoder_file)})"
        ]

    def test_says_what_it_did_not_use(
        self, tmp_path: Path, encoder: SegResEncoder, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, logger="ctfm.weights")
        source = lightning("backbone.")(dict(encoder.state_dict()), tmp_path)
        weights.load_encoder(tiny_network(), source)
        assert "1 other tensors of the file not used (first: projection_head." in caplog.text

    def test_keeps_gradients_on(self, encoder_file: Path) -> None:
        network = weights.load_encoder(tiny_network(), encoder_file)
        assert all(parameter.requires_grad for parameter in network.parameters())

    @pytest.mark.parametrize("nothing", [None, "", "  "])
    def test_no_checkpoint(self, nothing: str | None) -> None:
        with pytest.raises(UserError, match=r"no checkpoint given: .*from_scratch\.yaml"):
            weights.load_encoder(tiny_network(), nothing)

    @pytest.mark.parametrize("norm", ["INSTANCE", ("GROUP", {"num_groups": 2})])
    def test_refuses_network_without_statistics(self, encoder_file: Path, norm: Any) -> None:
        network = SegResNetDS(**TINY, norm=norm)
        name = norm if isinstance(norm, str) else norm[0]
        before = snapshot(network)
        with pytest.raises(UserError, match=f"norm {name}, without running statistics.*BATCH"):
            weights.load_encoder(network, encoder_file)
        assert same(snapshot(network), before)

    def test_a_copy_that_did_not_happen_is_noticed(
        self, encoder_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        network = tiny_network()
        monkeypatch.setattr(network.encoder, "load_state_dict", lambda _: None)
        with pytest.raises(RuntimeError, match=r"tensors differ after the copy .first: conv_init"):
            weights.load_encoder(network, encoder_file)

    def test_refuses_other_networks(self, encoder_file: Path) -> None:
        with pytest.raises(UserError, match=r"such as SegResNetDS, not SegResNet$"):
            weights.load_encoder(SegResNet(init_filters=8), encoder_file)


def without(name: str) -> Callable[[State], State]:
    return lambda state: {n: tensor for n, tensor in state.items() if n != name}


def changed(**tensors: Tensor) -> Callable[[State], State]:
    return lambda state: state | {n.replace("__", "."): t for n, t in tensors.items()}


def no_statistics(state: State) -> State:
    return {n: t for n, t in state.items() if "running" not in n and "num_batches" not in n}


def swapped(state: State) -> State:
    """A shape off in one tensor among many that agree."""
    return state | {"layers.1.downsample.weight": torch.zeros(8, 4, 1, 1, 1)}


MISMATCHES: dict[str, tuple[Callable[[State], State], str]] = {
    "missing": (
        without("layers.0.blocks.0.norm1.running_var"),
        r"64 of 65 tensors match; 1 missing in the file "
        r"\(layers\.0\.blocks\.0\.norm1\.running_var \(2,\) float32\)",
    ),
    "counter missing": (
        without("layers.4.blocks.0.norm2.num_batches_tracked"),
        r"1 missing in the file \(layers\.4\.blocks\.0\.norm2\.num_batches_tracked \(\) int64\)",
    ),
    "left over": (
        changed(head__weight=torch.ones(4)),
        r"65 of 65 tensors match; 1 unknown to the network \(head\.weight \(4,\) float32\)",
    ),
    "shape": (
        swapped,
        r"64 of 65 tensors match; 1 different \(layers\.1\.downsample\.weight is "
        r"\(8, 4, 1, 1, 1\) float32 in the file, \(8, 4, 3, 3, 3\) float32 in the network\)",
    ),
    "type": (
        changed(conv_init__weight=torch.zeros(2, 1, 3, 3, 3, dtype=torch.float64)),
        r"\(2, 1, 3, 3, 3\) float64 in the file.*only types differ.*--dtype float32",
    ),
    "no running statistics": (
        no_statistics,
        r"35 of 65 tensors match; 30 missing in the file .*no running statistics \(INSTANCE",
    ),
    "not finite": (
        changed(layers__0__blocks__0__norm1__bias=torch.tensor([1.0, torch.nan])),
        r"1 values in 1 of 65 tensors are not finite \(first: layers\.0\.blocks\.0\.norm1\.bias\)",
    ),
    "negative variance": (
        changed(layers__0__blocks__0__norm1__running_var=torch.tensor([1.0, -1e-9])),
        r"1 running variances are negative \(first: layers\.0\.blocks\.0\.norm1\.running_var\)",
    ),
}


@pytest.mark.parametrize("case", MISMATCHES)
@pytest.mark.parametrize("whole", [False, True], ids=["encoder", "network"])
def test_a_mismatch_names_the_tensors_and_changes_nothing(
    case: str, whole: bool, tmp_path: Path, encoder: SegResEncoder
) -> None:
    change, message = MISMATCHES[case]
    path = tmp_path / "bad.safetensors"
    save_file(change(dict(encoder.state_dict())), path)
    network: nn.Module = tiny_encoder(seed=3) if whole else tiny_network(seed=3)
    before = snapshot(network)
    load = weights.load_network if whole else weights.load_encoder
    with pytest.raises(UserError, match=message) as raised:
        load(network, path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert same(snapshot(network), before)


class TestWhatTheFileIs:
    """An error says what the file probably is."""

    def load(self, content: Any, folder: Path) -> None:
        network = tiny_network()
        before = snapshot(network)
        try:
            weights.load_encoder(network, saved(content, folder))
        finally:
            assert same(snapshot(network), before)

    def test_other_width(self, tmp_path: Path) -> None:
        wide = tiny_network(init_filters=4, blocks_down=(1, 2, 1, 1, 1))
        message = (
            r"looks like a SegResEncoder with init_filters=4, blocks_down=\(1, 2, 1, 1, 1\); "
            r"expected a SegResEncoder with init_filters=2, blocks_down=\(1, 1, 1, 1, 1\)$"
        )
        with pytest.raises(UserError, match=message):
            self.load(wide.state_dict(), tmp_path)

    def test_other_channels(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"looks like .* in_channels=4"):
            self.load(tiny_encoder(in_channels=4).state_dict(), tmp_path)

    def test_other_dimensions(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"looks like .* spatial_dims=2"):
            self.load(tiny_encoder(spatial_dims=2).state_dict(), tmp_path)

    def test_first_tensor_alone(self, tmp_path: Path) -> None:
        source = saved({"conv_init.weight": torch.ones(2, 1, 3, 3, 3)}, tmp_path)
        with pytest.raises(UserError, match=r"is no encoder: it has names such as conv_init"):
            weights.read_encoder(source)

    def test_instance_norm(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"no running statistics .INSTANCE or GROUP norm"):
            self.load(tiny_encoder(norm="INSTANCE").state_dict(), tmp_path)

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["module.down_tr64.ops.0.conv1.weight"], "U-Net of SuPreM"),
            (["convInit.conv.weight"], r"SegResNet \(not SegResNetDS\), such as SuPreM's"),
            (["swinViT.patch_embed.proj.weight"], "a Swin UNETR, such as SuPreM's"),
            (["encoder.stages.0.0.convs.0.conv.weight"], "an nnU-Net v2"),
            (["layer1.0.conv1.weight"], "a ResNet"),
            (["a.b", "c"], "has names such as a.b, c"),
        ],
    )
    def test_another_network(self, names: list[str], message: str, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=f"holds no CT-FM encoder: 0 of .*{message}"):
            self.load({name: torch.ones(1) for name in names}, tmp_path)

    def test_optimizer(self, tmp_path: Path, encoder: SegResEncoder) -> None:
        state = torch.optim.AdamW(encoder.parameters()).state_dict()
        with pytest.raises(UserError, match="looks like an optimizer state"):
            self.load(state, tmp_path)

    def test_two_encoders(self, tmp_path: Path, encoder: SegResEncoder) -> None:
        state = dict(encoder.state_dict())
        content = prefixed("student.", state) | prefixed("teacher.", state)
        with pytest.raises(UserError, match=r"holds 2 encoders, under 'student\.', 'teacher\.'"):
            self.load(content, tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([1, 2], "holds a list, not a state dict"),
            ({}, "holds no state dict: it is empty"),
            ({"epoch": 3, "lr": 0.1}, "has the entries epoch, lr; expected one of state_dict"),
            ({"a": torch.ones(1), "epoch": 3}, r"mixes tensors with other entries \(epoch\)"),
        ],
    )
    def test_no_state_dict(self, content: Any, message: str, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=message):
            self.load(content, tmp_path)

    def test_torchscript(self, tmp_path: Path, encoder: SegResEncoder) -> None:
        path = tmp_path / "model.ts"
        torch.jit.script(nn.Linear(1, 1)).save(path)
        with pytest.raises(UserError, match="is a TorchScript archive"):
            weights.load_encoder(tiny_network(), path)


class Malicious:
    """Leaves a file behind when unpickled by anything that runs code."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.target,)


class TestFiles:
    @pytest.mark.parametrize("legacy", [False, True])
    def test_malicious_pickle_does_not_run(self, legacy: bool, tmp_path: Path) -> None:
        trap, path = tmp_path / "trap", tmp_path / "weights.pt"
        content = {"state_dict": {"conv_init.weight": torch.ones(1)}, "extra": Malicious(trap)}
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(UserError, match=r"refused to open .*torch\.save\(model\.state_dict"):
            weights.load_encoder(tiny_network(), path)
        assert not trap.exists()
        path.write_bytes(pickle.dumps(Malicious(trap)))
        with pytest.raises(UserError):
            weights.verify(path)
        assert not trap.exists()
        pickle.loads(path.read_bytes())
        assert trap.exists(), "the trap does not work, so the test shows nothing"

    def test_whole_module_pickle_is_refused(self, tmp_path: Path, encoder: SegResEncoder) -> None:
        with pytest.raises(UserError, match=r"needs Python code \(monai\.networks.*SegResEncoder"):
            weights.read_encoder(saved(encoder, tmp_path))

    @pytest.mark.parametrize("writer", [bare_safetensors, plain_state_dict, legacy_pickle])
    @pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
    def test_truncated(
        self,
        writer: Callable[[State, Path], Path],
        share: float,
        tmp_path: Path,
        encoder: SegResEncoder,
    ) -> None:
        path = writer(dict(encoder.state_dict()), tmp_path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UserError, match="truncated or damaged") as raised:
            weights.read_encoder(path)
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", r"is empty \(0 bytes\)"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer"),
            (b"\n<!DOCTYPE html><html></html>", "is a web page"),
            (b"hello, world, this is no checkpoint", "neither safetensors nor a torch pickle"),
            (b"abc", "neither safetensors nor a torch pickle"),
            (b"PK\x03\x04 not a zip", "truncated or damaged"),
            (b"\x80\x04 not a pickle", "truncated or damaged"),
        ],
    )
    def test_not_a_checkpoint(self, content: bytes, message: str, tmp_path: Path) -> None:
        path = tmp_path / "weights.pt"
        path.write_bytes(content)
        with pytest.raises(UserError, match=message) as raised:
            weights.read_encoder(path)
        assert "\n" not in str(raised.value)

    def test_header_of_a_truncated_file(self, encoder_file: Path) -> None:
        encoder_file.write_bytes(encoder_file.read_bytes()[:1000])
        with pytest.raises(UserError, match="truncated or damaged"):
            weights.read_metadata(encoder_file)

    def test_named_file_that_a_folder_lacks(self, encoder_file: Path) -> None:
        with pytest.raises(UserError, match=r"has no file best\.pt"):
            weights.fetch(encoder_file.parent, filename="best.pt")

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"encoder\.pt does not exist; pass a file"):
            weights.read_encoder(tmp_path / "encoder.pt")

    def test_relative_file_is_not_taken_for_a_repository(self) -> None:
        with pytest.raises(UserError, match=r"models/model\.pt does not exist"):
            weights.read_encoder("models/model.pt")

    def test_folder_without_a_single_checkpoint(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"but holds 0 \(none\)"):
            weights.read_encoder(tmp_path)
        for name in ("a.pt", "b.pt"):
            (tmp_path / name).touch()
        with pytest.raises(UserError, match=r"but holds 2 \(a\.pt, b\.pt\); pass the file"):
            weights.read_encoder(tmp_path)

    def test_revision_of_a_local_file(self, encoder_file: Path) -> None:
        with pytest.raises(UserError, match="revision 'v1' belongs to a Hugging Face repository"):
            weights.load_encoder(tiny_network(), encoder_file, revision="v1")


class TestLoadNetwork:
    @pytest.mark.parametrize("layout", WHOLE)
    def test_layouts(self, layout: str, tmp_path: Path, encoder: SegResEncoder) -> None:
        source = LAYOUTS[layout](dict(encoder.state_dict()), tmp_path)
        expected = tiny_network()
        expected.encoder.load_state_dict(encoder.state_dict())
        network = tiny_network(seed=8)
        assert weights.load_network(network, source) is network
        assert same(network.state_dict(), expected.state_dict())

    def test_data_parallel(self, tmp_path: Path) -> None:
        expected = tiny_network()
        source = saved(nn.DataParallel(expected).state_dict(), tmp_path)
        network = weights.load_network(tiny_network(seed=8), source)
        assert same(network.state_dict(), expected.state_dict())

    def test_a_network_with_instance_norm(self, tmp_path: Path) -> None:
        expected = tiny_network(norm="INSTANCE")
        source = saved(expected.state_dict(), tmp_path)
        network = weights.load_network(tiny_network(seed=8, norm="INSTANCE"), source)
        assert same(network.state_dict(), expected.state_dict())

    def test_encoder_alone(self, encoder_file: Path) -> None:
        network = tiny_network()
        before = snapshot(network)
        with pytest.raises(UserError, match=r"holds no such network.*ctfm weights inject"):
            weights.load_network(network, encoder_file)
        assert same(snapshot(network), before)

    def test_other_classes(self, tmp_path: Path) -> None:
        source = saved(tiny_network(out_channels=118).state_dict(), tmp_path)
        network = tiny_network()
        before = snapshot(network)
        message = (
            r"4 different \(up_layers\.2\.head\.weight is \(118, 4, 1, 1, 1\) float32 in the file, "
            r"\(3, 4, 1, 1, 1\) .*looks like a SegResNetDS with .*out_channels=118, dsdepth=2; "
            r"expected a SegResNetDS with .*out_channels=3, dsdepth=2"
        )
        with pytest.raises(UserError, match=message):
            weights.load_network(network, source)
        assert same(snapshot(network), before)

    def test_no_checkpoint(self) -> None:
        with pytest.raises(UserError, match="no checkpoint given"):
            weights.load_network(tiny_network(), None)


class TestConvert:
    def test_header(self, tmp_path: Path, encoder_file: Path, encoder: SegResEncoder) -> None:
        out = tmp_path / "folder" / "out.safetensors"
        report = weights.convert(encoder_file, out)
        parameters = sum(parameter.numel() for parameter in encoder.parameters())
        assert weights.read_metadata(out) == report.metadata
        assert report.metadata == {
            "format": "pt",
            "ctfm_format": "1",
            "ctfm_version": ctfm.__version__,
            "kind": "encoder",
            "tensors": str(TINY_TENSORS),
            "parameters": str(parameters),
            "source": "encoder.safetensors",
            "revision": "",
            "source_sha256": sha256(encoder_file),
            "origin": "encoder.safetensors",
        }
        assert (report.path, report.sha256) == (out, sha256(out))
        assert report.parameters == parameters

    def test_origin_outlives_a_second_conversion(self, tmp_path: Path, encoder_file: Path) -> None:
        first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
        weights.convert(encoder_file, first)
        metadata = weights.convert(first, second).metadata
        assert metadata["source"] == "first.safetensors"
        assert metadata["source_sha256"] == sha256(first)
        assert metadata["origin"] == "encoder.safetensors"

    def test_in_place(self, encoder_file: Path, encoder: SegResEncoder) -> None:
        weights.convert(encoder_file, encoder_file)
        assert same(load_file(encoder_file), encoder.state_dict())

    def test_plain_state_dict(self, tmp_path: Path, encoder_file: Path) -> None:
        report = weights.convert(encoder_file, tmp_path / "model.pt")
        assert same(torch.load(report.path, weights_only=True), load_file(encoder_file))
        assert report.metadata == weights.read_metadata(report.path) == {}

    def test_views_and_shared_memory(self, tmp_path: Path, encoder: SegResEncoder) -> None:
        state = dict(encoder.state_dict())
        flat = state["conv_init.weight"].flatten().repeat(2)
        state["conv_init.weight"] = flat[54:].view(2, 1, 3, 3, 3)
        strided = state["layers.0.blocks.0.conv1.weight"].contiguous().transpose(0, 1)
        state["layers.0.blocks.0.conv1.weight"] = strided
        state["layers.0.blocks.0.norm1.bias"] = state["layers.0.blocks.0.norm2.bias"]
        for name in ("out.safetensors", "out.pt"):
            report = weights.convert(saved(state, tmp_path), tmp_path / name)
            assert same(weights.read_encoder(report.path).tensors, state)
        assert not strided.is_contiguous()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    def test_half_precision_is_read_as_float32(
        self, dtype: torch.dtype, suffix: str, tmp_path: Path, encoder: SegResEncoder
    ) -> None:
        state = encoder.state_dict()
        half = {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}
        path = tmp_path / f"half{suffix}"
        save_file(half, path) if suffix == ".safetensors" else torch.save(half, path)
        network = tiny_network()
        weights.load_encoder(network, path)
        expected = {n: t.float() if t.is_floating_point() else t for n, t in half.items()}
        assert same(dict(network.encoder.state_dict()), expected)
        report = weights.convert(path, tmp_path / "out.safetensors")
        assert report.dtypes == ("float32", "int64")

    def test_double_precision_only_on_request(self, tmp_path: Path, encoder: SegResEncoder) -> None:
        half = copy.deepcopy(encoder).double()
        source, out = saved(half.state_dict(), tmp_path), tmp_path / "out.safetensors"
        with pytest.raises(UserError, match=r"only types differ.*--dtype float32"):
            weights.convert(source, out)
        assert not out.exists()
        report = weights.convert(source, out, dtype="float32")
        assert report.dtypes == ("float32", "int64")
        expected = {n: t.float() for n, t in half.state_dict().items() if t.is_floating_point()}
        found = load_file(out)
        assert same({name: found[name] for name in expected}, expected)
        assert found["layers.0.blocks.0.norm1.num_batches_tracked"].item() == 7

    @pytest.mark.parametrize("arguments", [{"kind": "decoder"}, {"dtype": "float16"}])
    def test_unknown_choices(self, arguments: dict[str, str], encoder_file: Path) -> None:
        name, value = next(iter(arguments.items()))
        with pytest.raises(UserError, match=f"{name} '{value}' is"):
            weights.convert(encoder_file, encoder_file.with_name("out.safetensors"), **arguments)

    def test_suffix(self, encoder_file: Path) -> None:
        with pytest.raises(UserError, match=r"name it \.safetensors, or \.pt"):
            weights.convert(encoder_file, encoder_file.with_name("out.bin"))

    def test_network_out_of_an_encoder(self, encoder_file: Path) -> None:
        with pytest.raises(UserError, match="holds an encoder alone"):
            weights.convert(encoder_file, encoder_file.with_name("out.pt"), kind="segresnet")

    def test_encoder_with_instance_norm(self, tmp_path: Path) -> None:
        source = saved(tiny_network(norm="INSTANCE").state_dict(), tmp_path)
        with pytest.raises(UserError, match=r"no running statistics.*has BATCH norm"):
            weights.convert(source, tmp_path / "out.pt", kind="encoder")
        assert not weights.convert(source, tmp_path / "out.pt").published

    @pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
    def test_full_disk_leaves_nothing(self, suffix: str, encoder_file: Path) -> None:
        folder = encoder_file.parent
        out = encoder_file.with_name("out" + suffix)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            with pytest.raises(UserError, match=r"cannot write .*no partial file was left"):
                weights.convert(encoder_file, out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert [path.name for path in folder.iterdir()] == [encoder_file.name]


class TestInject:
    def inject(self, source: Path, out: Path, **arguments: Any) -> weights.Report:
        arguments = {"init_filters": 2, "blocks_down": (1, 1, 1, 1, 1)} | arguments
        return weights.inject(source, out, **arguments)

    @pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
    def test_round_trip(
        self, suffix: str, tmp_path: Path, encoder_file: Path, encoder: SegResEncoder
    ) -> None:
        report = self.inject(encoder_file, tmp_path / f"model{suffix}", out_channels=3, dsdepth=2)
        assert report.kind == "segresnet"
        assert (report.architecture.out_channels, report.architecture.dsdepth) == (3, 2)
        network = weights.load_network(tiny_network(), report.path)
        assert same(network.encoder.state_dict(), encoder.state_dict())

    def test_header_and_defaults(self, tmp_path: Path, encoder_file: Path) -> None:
        report = self.inject(encoder_file, tmp_path / "model.safetensors", seed=3)
        assert report.metadata["kind"] == "segresnet"
        assert report.metadata["source_sha256"] == sha256(encoder_file)
        assert report.metadata["decoder"] == "random, seed 3"
        assert report.architecture.out_channels == SEGRESNET.out_channels
        assert report.architecture.dsdepth == SEGRESNET.dsdepth

    def test_the_seed_decides_the_decoder(self, tmp_path: Path, encoder_file: Path) -> None:
        state = torch.random.get_rng_state()
        reports = [
            self.inject(encoder_file, tmp_path / f"{i}.pt", seed=seed)
            for i, seed in enumerate((0, 0, 1))
        ]
        first, second, third = (torch.load(r.path, weights_only=True) for r in reports)
        assert same(first, second)
        assert not same(first, third)
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_other_width(self, tmp_path: Path, encoder_file: Path) -> None:
        out = tmp_path / "model.pt"
        with pytest.raises(UserError, match=r"looks like .*init_filters=2.*init_filters=4"):
            self.inject(encoder_file, out, init_filters=4)
        assert not out.exists()

    def test_impossible_arguments(self, tmp_path: Path, encoder_file: Path) -> None:
        with pytest.raises(UserError, match="are at least 1; got 0, 2, 4"):
            self.inject(encoder_file, tmp_path / "model.pt", out_channels=0)


class TestVerify:
    def test_report(self, encoder_file: Path, encoder: SegResEncoder) -> None:
        report = weights.verify(encoder_file)
        assert report.kind == "encoder"
        assert report.tensors == TINY_TENSORS == len(encoder.state_dict())
        assert report.parameters == sum(p.numel() for p in encoder.parameters())
        assert report.dtypes == ("float32", "int64")
        assert report.sha256 == sha256(encoder_file)
        assert not report.published
        assert f"{TINY_TENSORS} tensors" in str(report)

    def test_not_the_published_network(self, encoder_file: Path) -> None:
        with pytest.raises(UserError, match=r"init_filters=2.*published encoder has .*161 tensors"):
            weights.verify(encoder_file, published=True)

    def test_constant_channels(self, tmp_path: Path, encoder: SegResEncoder) -> None:
        encoder.layers[0]["blocks"][0].norm1.running_var[1] = 0
        report = weights.verify(saved(encoder.state_dict(), tmp_path))
        assert report.constant_channels == 1

    @pytest.mark.parametrize("case", MISMATCHES)
    def test_mismatch(self, case: str, tmp_path: Path, encoder: SegResEncoder) -> None:
        change, message = MISMATCHES[case]
        if case == "no running statistics":  # here there is no network to compare with
            message = "no running statistics.*has BATCH norm"
        with pytest.raises(UserError, match=message):
            weights.verify(saved(change(dict(encoder.state_dict())), tmp_path))

    def test_network_with_a_tensor_missing(self, tmp_path: Path) -> None:
        state = dict(tiny_network().state_dict())
        del state["up_layers.0.blocks.0.norm1.running_mean"]
        with pytest.raises(UserError, match=r"1 missing in the file \(up_layers\.0\.blocks"):
            weights.verify(saved(state, tmp_path))

    @pytest.mark.parametrize("dsdepth", [1, 2, 4])
    def test_every_depth_of_supervision(self, dsdepth: int, tmp_path: Path) -> None:
        network = tiny_network(dsdepth=dsdepth, blocks_up=(1, 2, 1, 1))
        report = weights.verify(saved(network.state_dict(), tmp_path))
        assert report.architecture.dsdepth == dsdepth
        assert report.architecture.blocks_up == (1, 2, 1, 1)
        assert report.tensors == len(network.state_dict())


REPOSITORY = "project-lighter/ct_fm_feature_extractor"


@pytest.fixture
def hub_cache(tmp_path: Path, encoder: SegResEncoder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache as it is after one download of the encoder."""
    repository = tmp_path / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    snapshots = repository / "snapshots" / COMMIT
    snapshots.mkdir(parents=True)
    save_file(dict(encoder.state_dict()), snapshots / "model.safetensors")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return snapshots / "model.safetensors"


class TestHub:
    @pytest.mark.parametrize("revision", [None, "main", COMMIT])
    def test_offline_out_of_the_cache(self, revision: str | None, hub_cache: Path) -> None:
        source = weights.fetch(REPOSITORY, revision=revision, offline=True)
        assert source == weights.Source(REPOSITORY, hub_cache, COMMIT, "encoder")

    def test_environment_variable(self, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        assert weights.fetch(REPOSITORY).path == hub_cache

    def test_the_commit_is_in_the_header(self, hub_cache: Path, tmp_path: Path) -> None:
        out = tmp_path / "encoder.safetensors"
        source = weights.fetch(REPOSITORY, out, offline=True)
        assert (source.path, source.revision) == (out, COMMIT)
        metadata = weights.read_metadata(out)
        assert metadata["source"] == REPOSITORY
        assert metadata["revision"] == COMMIT
        assert metadata["source_sha256"] == sha256(hub_cache)
        again = weights.convert(out, tmp_path / "again.safetensors")
        assert again.metadata["origin"] == f"{REPOSITORY}@{COMMIT}"

    def test_load_encoder(
        self, hub_cache: Path, encoder: SegResEncoder, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, logger="ctfm.weights")
        network = weights.load_encoder(tiny_network(), REPOSITORY, offline=True)
        assert same(network.encoder.state_dict(), encoder.state_dict())
        assert f"from {REPOSITORY}@{COMMIT} (sha256 {sha256(hub_cache)})" in caplog.text

    def test_file_in_a_folder_of_the_repository(self, hub_cache: Path) -> None:
        (hub_cache.parent / "fold0").mkdir()
        shutil.copy(hub_cache, hub_cache.parent / "fold0" / "best.safetensors")
        source = weights.fetch(REPOSITORY, offline=True, filename="fold0/best.safetensors")
        assert source.revision == COMMIT

    def test_not_in_the_cache(self, hub_cache: Path) -> None:
        message = r"\(model\.safetensors, revision v2\) is not in the local cache.*pass its path"
        with pytest.raises(UserError, match=message) as raised:
            weights.fetch(REPOSITORY, revision="v2", offline=True)
        assert "\n" not in str(raised.value)

    def test_unreachable(self, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> str:
            raise huggingface_hub.utils.LocalEntryNotFoundError("no route to host")

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
        with pytest.raises(UserError, match=r"cannot be reached.*elsewhere and pass its path"):
            weights.fetch(REPOSITORY)

    def test_any_other_failure(self, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> str:
            raise ConnectionResetError("reset by peer")

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
        with pytest.raises(UserError, match=r"cannot fetch .*: reset by peer; try again, or down"):
            weights.fetch(REPOSITORY)

    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            ("RepositoryNotFoundError", "neither a path on this machine nor a public Hugging Face"),
            ("RevisionNotFoundError", r"has no file model\.safetensors at revision v2"),
            ("EntryNotFoundError", r"has no file model\.safetensors at revision v2"),
        ],
    )
    def test_not_on_the_hub(self, kind: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
        error = getattr(huggingface_hub.utils, kind)

        def fail(*_: Any, **__: Any) -> str:
            # its constructor asks for a response, of another library in each major version
            raise error.__new__(error, "no")

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
        with pytest.raises(UserError, match=message):
            weights.fetch("someone/something", revision="v2")

    def test_what_the_hub_is_asked(self, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Any] = []

        def answer(*arguments: Any, **named: Any) -> str:
            asked.append((arguments, named))
            return str(hub_cache)

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", answer)
        weights.fetch(REPOSITORY)
        weights.fetch("a/b", revision="v2", offline=True)
        assert asked == [
            ((REPOSITORY, "model.safetensors"), {"revision": "main", "local_files_only": False}),
            (("a/b", "model.safetensors"), {"revision": "v2", "local_files_only": True}),
        ]

    def test_local_file(self, encoder_file: Path) -> None:
        assert weights.fetch(encoder_file) == weights.Source(encoder_file.name, encoder_file)

    def test_known_repositories(self) -> None:
        kinds = {known.repo_id: known.kind for known in weights.KNOWN_REPOSITORIES}
        assert kinds == {
            REPOSITORY: "encoder",
            "project-lighter/ct_fm_segresnet": "segresnet",
            "project-lighter/whole_body_segmentation": "segresnet",
        }


class TestPublishedSize:
    """The encoder as lighter-zoo saves it, in full, against the contract."""

    def test_same_features_bit_by_bit(self, tmp_path: Path) -> None:
        lighter_zoo = pytest.importorskip(
            "lighter_zoo", reason="lighter-zoo, which writes the published files, is not installed"
        )
        with torch.device("meta"):  # no time for initial values: all of them are replaced
            pretrained = lighter_zoo.SegResEncoder(**ENCODER.arguments)
            network = SegResNetDS(**SEGRESNET.arguments)
        randomise(pretrained.to_empty(device="cpu"))
        pretrained.save_pretrained(tmp_path)
        assert (tmp_path / "config.json").is_file()

        report = weights.verify(tmp_path)
        assert report.published
        assert (report.kind, report.tensors) == ("encoder", ENCODER.tensors)
        assert report.parameters == ENCODER.parameters == 77_760_992

        weights.load_encoder(network.to_empty(device="cpu"), tmp_path)
        image = torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = pretrained.eval()(image)
            found = network.eval().encoder(image)
        assert [tuple(level.shape[1:3]) for level in found] == [
            (32, 32), (64, 16), (128, 8), (256, 4), (512, 2)
        ]  # fmt: skip
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
        assert all(torch.isfinite(level).all() and level.std() > 0 for level in found)

    def test_contract_is_named_when_the_network_is_the_published_one(
        self, encoder_file: Path
    ) -> None:
        with torch.device("meta"):
            network = SegResNetDS(**SEGRESNET.arguments)
        with pytest.raises(UserError, match="its encoder is CT-FM's, of 161 tensors"):
            weights.load_encoder(network, encoder_file)


class TestShards:
    """Hugging Face's layout of large weights: several files, and an index."""

    @pytest.fixture
    def folder(self, tmp_path: Path, encoder: SegResEncoder) -> Path:
        folder = tmp_path / "sharded"
        folder.mkdir()
        state = dict(encoder.state_dict())
        parts = {"a.safetensors": list(state)[:30], "b.safetensors": list(state)[30:]}
        for name, tensors in parts.items():
            save_file({tensor: state[tensor] for tensor in tensors}, folder / name)
        places = {tensor: name for name, tensors in parts.items() for tensor in tensors}
        index = json.dumps({"metadata": {}, "weight_map": places})
        (folder / "model.safetensors.index.json").write_text(index)
        return folder

    def test_all_parts_are_read(self, folder: Path, encoder: SegResEncoder) -> None:
        for source in (folder, folder / "model.safetensors.index.json"):
            network = tiny_network()
            weights.load_encoder(network, source)
            assert same(dict(network.encoder.state_dict()), dict(encoder.state_dict()))
        first = weights.verify(folder).sha256
        state = load_file(folder / "b.safetensors")
        save_file({name: t + 1 for name, t in state.items()}, folder / "b.safetensors")
        assert weights.verify(folder).sha256 != first

    def test_a_part_that_is_missing_or_of_another_version(self, folder: Path) -> None:
        state = load_file(folder / "b.safetensors")
        name, _ = state.popitem()
        save_file(state, folder / "b.safetensors")
        with pytest.raises(UserError, match=f"1 tensors are missing or left over .*{name}"):
            weights.verify(folder)
        (folder / "b.safetensors").unlink()
        with pytest.raises(UserError, match=r"its part b.safetensors is missing"):
            weights.verify(folder)

    @pytest.mark.parametrize(
        "index",
        ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../a.safetensors"}}'],
    )
    def test_an_index_that_is_none(self, index: str, folder: Path) -> None:
        (folder / "model.safetensors.index.json").write_text(index)
        with pytest.raises(UserError, match="download it again"):
            weights.verify(folder)


class TestTwoNetworksInAFile:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "last.pt"
        model, average = tiny_network(1).state_dict(), tiny_network(2).state_dict()
        torch.save({"model": prefixed("module.", dict(model)), "model_ema": average}, path)
        return path

    def test_nobody_said_which(self, file: Path, tmp_path: Path) -> None:
        message = f"holds several networks, model, model_ema: take one by .*convert {file} --key "
        for load in (weights.verify, weights.read_encoder):
            with pytest.raises(UserError, match=f"{message}model_ema --out FILE"):
                load(file)
        with pytest.raises(UserError, match="no network under 'ema': its keys are model, model_"):
            weights.convert(file, tmp_path / "out.pt", key="ema")

    def test_one_is_taken_by_its_key(self, file: Path, tmp_path: Path) -> None:
        for seed, key in ((1, "model"), (2, "model_ema")):
            weights.convert(file, tmp_path / "out.safetensors", key=key)
            found = weights.load_network(tiny_network(3), tmp_path / "out.safetensors")
            assert same(dict(found.state_dict()), dict(tiny_network(seed).state_dict()))
            assert weights.verify(file, key=key).kind == "segresnet"

    def test_an_optimizer_is_no_network(self, tmp_path: Path) -> None:
        network = tiny_network()
        optimizer = torch.optim.AdamW(network.parameters())
        loss = {"weight": torch.ones(3)}
        saved = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "loss": loss}
        torch.save(saved, tmp_path / "last.pt")
        assert weights.verify(tmp_path / "last.pt").kind == "segresnet"


class TestFingerprint:
    def test_file_order_and_layout_in_memory_do_not_matter(
        self, encoder: SegResEncoder, encoder_file: Path
    ) -> None:
        state = encoder.state_dict()
        expected = weights.fingerprint(state)
        turned = encoder.to(memory_format=torch.channels_last_3d).state_dict()
        assert weights.fingerprint(turned) == expected
        assert weights.fingerprint(dict(reversed(state.items()))) == expected
        report = weights.verify(encoder_file)
        assert report.encoder_sha256 == expected
        assert expected in str(report)

    def test_any_value_name_type_or_shape_matters(self) -> None:
        states: list[State] = [
            {"a": torch.tensor([1.0, 2.0])},
            {"a": torch.tensor([1.0, 2.5])},
            {"b": torch.tensor([1.0, 2.0])},
            {"a": torch.tensor([1.0, 2.0], dtype=torch.float64)},
            {"a": torch.tensor([[1.0, 2.0]])},
            {"a": torch.tensor(3)},
            {},
        ]
        assert len({weights.fingerprint(state) for state in states}) == len(states)


class TestFindWeights:
    def test_the_preferred_file_is_taken_in_silence(self, tmp_path: Path, caplog: Any) -> None:
        for name in ("encoder.safetensors", "model.pt"):
            (tmp_path / name).write_text("x")
        found = weights.find_weights(tmp_path, ["encoder.safetensors", "model.pt"])
        assert found == str(tmp_path / "encoder.safetensors")
        assert not caplog.messages

    def test_an_empty_file_counts_as_absent_and_the_other_choice_is_said(
        self, tmp_path: Path, caplog: Any
    ) -> None:
        (tmp_path / "encoder.safetensors").touch()
        (tmp_path / "model.pt").write_text("x")
        found = weights.find_weights(tmp_path, ["encoder.safetensors", "model.pt"])
        assert found == str(tmp_path / "model.pt")
        assert "has no encoder.safetensors: taking model.pt" in caplog.text

    def test_none_at_all_says_how_to_fetch_them(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"looked for a.pt, b.pt.*ctfm weights fetch"):
            weights.find_weights(tmp_path, ["a.pt", "b.pt"])
        with pytest.raises(UserError, match=r"looked for a.pt\): train first$"):
            weights.find_weights(tmp_path, ["a.pt"], advice="train first")

    def test_what_a_training_has_left_is_not_taken_for_what_it_starts_from(
        self, tmp_path: Path
    ) -> None:
        for name in ("model.pt", "last.pt"):
            (tmp_path / name).write_text("x")
        names = ["encoder.safetensors", "model.pt"]
        assert weights.find_weights(tmp_path, names) == str(tmp_path / "model.pt")
        with pytest.raises(UserError, match=r"looked for encoder.safetensors\)"):
            weights.find_weights(tmp_path, names, left_by_training="last.pt")
