"""Files of torch: whole or not at all, and nothing in them runs."""
from __future__ import annotations

import datetime
import logging
import os
import threading
from collections import Counter, OrderedDict, defaultdict
from enum import Enum, IntEnum
from pathlib import Path
from typing import List, NamedTuple

import numpy as np
import pytest
import torch
from easydict import EasyDict

from ymir_exc import __version__, errors, util
from ymir_exc.integrations.torch import KeptTraining, load_weights, out_of_memory_explained, prefetch, save_weights, take_over


class Runs:
    def __reduce__(self):
        return os.mkdir, ("it ran",)


def test_there_and_back(tmp_path):
    path = tmp_path / "new" / "模型 a.pt"
    save_weights(path, {"w": torch.arange(3)}, class_names=["cat"], size=192)
    content = load_weights(path, ["class_names", "size"])
    assert (content["weights"]["w"].tolist(), content["class_names"], content["size"]) == ([0, 1, 2], ["cat"], 192)
    assert content["ymir_exc_version"] == __version__
    assert os.listdir(path.parent) == [path.name]
    assert path.stat().st_mode & 0o666 == 0o666
    with pytest.raises(errors.WeightsError, match=r"lacks anchors"):
        load_weights(path, ["anchors"])


def test_nothing_in_a_file_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Runs()}, "bad.pt")
    with pytest.raises(errors.WeightsError, match=r"bad\.pt cannot be read"):
        load_weights("bad.pt")
    assert os.listdir() == ["bad.pt"]


class Size(NamedTuple):
    width: int
    height: int


class Kind(str, Enum):
    LARGE = "large"


class Level(IntEnum):
    HIGH = 3


CONVERTED = [
    (np.float32(0.5), 0.5, float), (np.float64(0.5), 0.5, float), (np.int64(7), 7, int), (np.bool_(True), True, bool),
    (EasyDict(a=1, items=EasyDict(b=[2])), {"a": 1, "items": {"b": [2]}}, dict), (OrderedDict(a=1), {"a": 1}, OrderedDict),
    (Size(3, 4), (3, 4), tuple), (Path("/models/a.pt"), "/models/a.pt", str), (np.str_("a"), "a", str), (Kind.LARGE, "large", str),
    (Level.HIGH, 3, int), (torch.__version__, str(torch.__version__), str),
    ([None, True, b"bytes", {1: "one", (2, 3): "pair"}], [None, True, b"bytes", {1: "one", (2, 3): "pair"}], list),
    (torch.ones(2, 3).shape, (2, 3), tuple), ({np.int64(1), 2}, {1, 2}, set),
    (Counter("aab"), {"a": 2, "b": 1}, Counter), (defaultdict(list, a=[1]), {"a": [1]}, dict),
    (bytearray(b"a"), bytearray(b"a"), bytearray),
]


@pytest.mark.parametrize(("given", "read", "kind"), CONVERTED, ids=lambda value: str(type(value).__name__))
def test_what_is_saved_is_what_loads(platform, tmp_path, given, read, kind):
    save_weights(tmp_path / "a.pt", {"w": torch.zeros(1)}, about={"deep": [given]})
    found = load_weights(tmp_path / "a.pt")["about"]["deep"][0]
    assert (found, type(found)) == (read, kind)
    kept = KeptTraining(util.get_merged_config(), settings={"deep": given})
    kept.save(deep=[given])
    assert KeptTraining(util.get_merged_config(), settings={"deep": given}).load() == {"deep": [read]}


def test_tensors_of_every_make_load(tmp_path):
    values = {"parameter": torch.nn.Parameter(torch.ones(2)), "half": torch.ones(2).bfloat16(), "scalar": torch.tensor(3),
              "type": torch.float16, "device": torch.device("cpu")}
    save_weights(tmp_path / "a.pt", torch.nn.BatchNorm1d(3).state_dict(), **values)
    content = load_weights(tmp_path / "a.pt", values)
    assert (content["scalar"].item(), content["type"], content["device"]) == (3, torch.float16, torch.device("cpu"))
    assert sorted(content["weights"]) == sorted(torch.nn.BatchNorm1d(3).state_dict())


@pytest.mark.parametrize("odd", [np.ones(2), np.longdouble(1), datetime.date(2024, 1, 2), frozenset([1]), torch.nn.Linear(1, 1), Runs()],
                         ids=lambda value: type(value).__name__)
def test_what_would_not_load_is_not_saved(platform, tmp_path, odd):
    with pytest.raises(errors.ArgumentError, match=rf"about\.deep\.1 is a .*{type(odd).__name__}"):
        save_weights(tmp_path / "a.pt", {"w": torch.zeros(1)}, about={"deep": [0, odd]})
    with pytest.raises(errors.ArgumentError, match=r"weights\.w is a"):
        save_weights(tmp_path / "a.pt", {"w": odd})
    assert os.listdir(tmp_path) == [platform.root.name]
    cfg = util.get_merged_config()
    with pytest.raises(errors.ArgumentError, match="settings is a"):
        KeptTraining(cfg, odd)
    with pytest.raises(errors.ArgumentError, match="step is a"):
        KeptTraining(cfg).save(step=odd)


def test_weights_are_those_of_a_state_dict(tmp_path):
    for wrong in (None, torch.nn.Linear(1, 1), [torch.ones(1)]):
        with pytest.raises(errors.ArgumentError, match=r"model\.state_dict\(\)"):
            save_weights(tmp_path / "a.pt", wrong)
    assert os.listdir(tmp_path) == []


def test_an_optimiser_and_its_schedule_go_on(platform):
    def training():
        optimiser = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))], lr=1.0)
        return optimiser, torch.optim.lr_scheduler.MultiStepLR(optimiser, [1, 1, 3])

    optimiser, schedule = training()
    optimiser.step()
    schedule.step()
    kept = KeptTraining(util.get_merged_config())
    kept.save(optimiser=optimiser.state_dict(), schedule=schedule.state_dict(), rng=torch.get_rng_state())
    again, again_schedule = training()
    state = kept.load()
    again.load_state_dict(state["optimiser"])
    again_schedule.load_state_dict(state["schedule"])
    for _ in range(3):
        for one in (optimiser, schedule, again, again_schedule):
            one.step()
    assert again_schedule.get_last_lr() == schedule.get_last_lr() == [pytest.approx(0.001)]
    assert again_schedule.state_dict() == schedule.state_dict()


def test_class_names_of_any_kind_are_no_hindrance(platform, caplog):
    platform.config["class_names"] = ["cat", datetime.date(2024, 1, 2), 7]
    platform.write()
    KeptTraining(util.get_merged_config()).save(step=1)
    assert KeptTraining(util.get_merged_config()).load() == {"step": 1}


def test_a_name_without_a_folder_and_a_need_that_is_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_weights("a.pt", {"w": torch.zeros(1)}, class_names=["cat"])
    assert load_weights("a.pt", "class_names")["class_names"] == ["cat"]
    with pytest.raises(errors.WeightsError, match="lacks anchors"):
        load_weights("a.pt", "anchors")


def test_an_earlier_file_survives_what_cannot_be_saved(tmp_path):
    save_weights(tmp_path / "a.pt", {"w": torch.zeros(1)})
    with pytest.raises(errors.ArgumentError, match=r"odd is a builtins\.function"):
        save_weights(tmp_path / "a.pt", {"w": torch.ones(1)}, odd=lambda: None)
    assert load_weights(tmp_path / "a.pt")["weights"]["w"].item() == 0
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(errors.StorageError, match=r"folder\.pt"):
        save_weights(tmp_path / "folder.pt", {})


def training(epochs=3, width=2):
    torch.manual_seed(0)
    model = torch.nn.Linear(width, 1)
    optimiser = torch.optim.Adam(model.parameters())
    return model, optimiser, KeptTraining(util.get_merged_config(), {"epochs": epochs}, model=model, optimiser=optimiser)


def test_a_training_goes_on(platform, monkeypatch, caplog):
    model, optimiser, kept = training()
    assert kept.load() is None
    model(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    kept.save(step=7, stages=["epoch_1"])
    monkeypatch.setenv("RANK", "1")
    kept.save(step=8)
    kept.remove()
    monkeypatch.delenv("RANK")
    another, its_optimiser, kept = training()
    assert not torch.equal(another.weight, model.weight)
    assert kept.load() == {"step": 7, "stages": ["epoch_1"]}
    assert torch.equal(another.weight, model.weight)
    assert its_optimiser.state_dict()["state"][0]["step"] == 1
    kept.remove()
    assert kept.load() is None
    assert caplog.text == ""


def test_a_model_that_has_changed_meanwhile_begins_anew(platform, caplog):
    _, _, kept = training()
    kept.save(step=7)
    model, _, kept = training(width=3)
    before = model.weight.detach().clone()
    with caplog.at_level(logging.WARNING):
        assert kept.load() is None
    assert "the training begins anew" in caplog.text
    assert "model: Error(s) in loading state_dict for Linear: size mismatch for weight" in caplog.text
    assert torch.equal(model.weight, before)
    caplog.clear()
    assert KeptTraining(util.get_merged_config(), {"epochs": 3}, model=model).load() is None    # which has another number of parts
    assert "the training begins anew" in caplog.text


def test_what_cannot_be_restored_leaves_all_parts_as_they_were(platform, caplog):
    class Refuses:
        def state_dict(self):
            return {"step": 1}

        def load_state_dict(self, state):
            if state != {"step": 1}:
                raise ValueError("no such step")

    model, refuses = torch.nn.Linear(2, 1), Refuses()
    kept = KeptTraining(util.get_merged_config(), None, model=model, schedule=refuses)
    refuses.state_dict = lambda: {"step": 2}
    kept.save()
    del refuses.state_dict
    with torch.no_grad():
        model.weight.fill_(5)
    with caplog.at_level(logging.WARNING):
        assert kept.load() is None
    assert "schedule: no such step" in caplog.text
    assert torch.equal(model.weight, torch.full((1, 2), 5.0))


def test_when_it_is_time_to_keep(platform, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    _, _, kept = training()
    assert not kept.is_due(300)
    now[0] += 300
    assert kept.is_due(300)
    kept.save()
    assert not kept.is_due(300)


@pytest.mark.parametrize("change", [lambda p: p.config.update(class_names=["pig"]), lambda p: p.env.update(task_id="t1"), None])
def test_another_training_is_not_gone_on_with(platform, caplog, change):
    kept = KeptTraining(util.get_merged_config(), {"epochs": 3})
    kept.save(step=7)
    if change is None:
        with open(kept.path, "wb") as f:
            f.write(b"torn")
    else:
        change(platform)
        platform.write()
    with caplog.at_level(logging.WARNING):
        assert KeptTraining(util.get_merged_config(), {"epochs": 3}).load() is None
    assert "the training begins anew" in caplog.text


def head(classes):
    torch.manual_seed(classes)
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, classes))


def test_shared_classes_keep_their_weights():
    old, new = head(3), head(2)
    fresh = new[1].weight.detach().clone()
    assert take_over(new, old.state_dict(), ["cat", "dog", "cow"], ["cow", "pig"], of_classes="1.") == ["cow"]
    assert torch.equal(new[1].weight[0], old[1].weight[2])
    assert torch.equal(new[1].weight[1], fresh[1])
    assert torch.equal(new[0].weight, old[0].weight)


@pytest.mark.parametrize("change", [lambda w: w.pop("0.bias"), lambda w: w.update({"0.bias": torch.zeros(5)}),
                                    lambda w: w.update({"1.weight": torch.zeros(3, 9)})])
def test_weights_of_another_model_change_nothing(change):
    weights, new = head(3).state_dict(), head(2)
    before = {name: value.clone() for name, value in new.state_dict().items()}
    change(weights)
    with pytest.raises(errors.WeightsError, match="another kind of model"):
        take_over(new, weights, ["cat", "dog", "cow"], ["cow", "pig"], of_classes="1.")
    assert all(torch.equal(value, before[name]) for name, value in new.state_dict().items())


def test_a_full_gpu_says_what_was_tried(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**29, 2**33))
    words = r"batch_size 16, input_size 640 does not fit into the GPU's 8\.0 GiB, of which 0\.5"
    gpu = torch.device("cuda")
    with pytest.raises(errors.OutOfMemoryError, match=words), out_of_memory_explained(gpu, batch_size=16, input_size=640):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")


# ---------------------------------------------------------------------------------------------------------------- batches ahead

class Sample(NamedTuple):
    images: torch.Tensor
    names: List[str]


@pytest.mark.parametrize("device", ["cpu", "meta"])    # "meta" goes the way of a GPU
def test_batches_come_in_order_and_keep_their_kind(device):
    given = [Sample(torch.ones(n), ["a"]) for n in range(3)] + [{"x": [torch.ones(3), (torch.ones(4), None)]}]
    made = list(prefetch(given, torch.device(device)))
    assert [type(batch) for batch in made] == [Sample, Sample, Sample, dict]
    assert [len(batch.images) for batch in made[:3]] == [0, 1, 2]
    assert made[0].names == ["a"]
    assert made[3]["x"][1][1] is None
    assert {made[1].images.device.type, made[3]["x"][0].device.type, made[3]["x"][1][0].device.type} == {device}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_goes_wrong_with_a_batch_comes_after_those_before_it(device):
    def batches():
        yield torch.ones(1)
        raise ValueError("broken")

    got = []
    with pytest.raises(ValueError, match="broken"):
        for batch in prefetch(batches(), torch.device(device)):
            got.append(len(batch))
    assert got == [1]


def test_one_batch_is_made_ahead_in_a_thread_that_ends():
    made, threads = [], set()

    def batches():
        for number in range(9):
            threads.add(threading.get_ident())
            made.append(number)
            yield torch.ones(number)

    before = threading.active_count()
    loading = prefetch(batches(), torch.device("meta"))
    assert [len(next(loading)), len(next(loading))] == [0, 1]
    loading.close()
    assert made == [0, 1, 2]
    assert threading.get_ident() not in threads
    assert threading.active_count() == before
