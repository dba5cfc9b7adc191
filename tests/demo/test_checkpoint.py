"""Model files, and what of them another training can use."""
from __future__ import annotations

import logging

import pytest
import torch

import checkpoint
from model import Detector
from ymir_exc import __version__, errors


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(1)
    model = Detector(3)
    checkpoint.save(tmp_path / "stage" / "model.pt", checkpoint.Checkpoint(model, ["cat", "dog", "cow"], 192, [5, 0, 7]))
    return tmp_path / "stage" / "model.pt", model


def test_there_and_back(saved):
    path, model = saved
    made, class_names, size, counts = checkpoint.load(str(path))
    assert counts == [5, 0, 7]
    assert (class_names, size) == (["cat", "dog", "cow"], 192)
    images = torch.rand(1, 3, 64, 64) * 255
    assert torch.equal(made.eval()(images)[0], model.eval()(images)[0])


def test_it_is_loaded_without_running_code(saved):
    content = torch.load(saved[0], weights_only=True)
    assert content["ymir_exc_version"] == __version__
    assert [p.name for p in saved[0].parent.iterdir()] == ["model.pt"]


def test_shared_classes_keep_their_weights(saved, caplog):
    path, old = saved
    torch.manual_seed(2)
    new = Detector(2)
    fresh = new.class_last.weight.detach().clone()
    with caplog.at_level(logging.INFO):
        checkpoint.start_from(str(path), new, ["cow", "pig"])
    assert torch.equal(new.class_last.weight[0], old.class_last.weight[2])
    assert torch.equal(new.class_last.weight[1], fresh[1])
    assert torch.equal(new.stem[0][0].weight, old.stem[0][0].weight)
    assert torch.equal(new.box_last.weight, old.box_last.weight)
    assert "known classes: cow; new: pig" in caplog.text


@pytest.mark.parametrize("content", [b"", b"no weights", {"weights": {}}, [1, 2]])
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "foreign.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(errors.WeightsError, match=r"foreign\.pt"):
        checkpoint.load(str(path))


def test_another_network_is_refused(saved, tmp_path):
    content = torch.load(saved[0], weights_only=True)
    content["weights"].pop("merge.0.weight")
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(errors.WeightsError, match="another kind of model"):
        checkpoint.load(str(tmp_path / "other.pt"))
    with pytest.raises(errors.WeightsError, match="another kind of model"):
        checkpoint.start_from(str(tmp_path / "other.pt"), Detector(3), ["cat"])
