"""Models by `owner/name`: a hub on this machine that speaks the real one's protocol."""

import json
import re
import socket
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from hub_server import serving
from PIL import Image

from normalkit import BaseNet, BilinearNormals, SMPNormals, UNetNormals, load_model
from normalkit.cli import main
from normalkit.models import ImageModel
from normalkit.models.checkpoint import read_config, save_model
from normalkit.models.hub import find_checkpoint, upload_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

METRICS = {"mean": 17.5787, "median": 11.05, "11.25": 50.8156, "invalid": 0.0, "loss": 0.1475}


def unet():
    return UNetNormals("test_resnet", pretrained=False, decoder_channels=(8, 8, 8, 8, 4), skips=(2,))


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch):
    with serving(monkeypatch) as hub:
        yield hub


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "best", unet(), metadata={"data": "rooms", "metrics": METRICS})
    return tmp_path / "best"


@pytest.fixture
def pushed(hub, folder):
    upload_checkpoint(folder, "me/rooms", token=hub.token)
    hub.requests.clear()
    return "me/rooms"


def test_what_is_pushed_is_what_is_loaded(hub, cache):
    model = unet().eval()
    url = model.push_to_hub("me/rooms", metadata={"metrics": METRICS}, token=hub.token, private=True)
    assert url == f"{hub.address}/me/rooms/commit/{hub.commit(hub.repos['me/rooms']['main'])}"
    # Before version 1 and since, the client says it in two ways.
    assert hub.bodies[0].get("private") is True or hub.bodies[0].get("visibility") == "private"
    assert sorted(hub.repos["me/rooms"]["main"]) == ["README.md", "config.json", "model.safetensors"]
    loaded = load_model("me/rooms", cache_dir=cache)
    images = torch.rand(1, 3, 50, 40)
    assert type(loaded) is UNetNormals
    assert torch.equal(loaded(images), model(images))
    assert read_config(find_checkpoint("me/rooms", cache_dir=cache))["metrics"] == METRICS


def test_a_folder_is_uploaded_as_it_is_and_nothing_beside_it(hub, folder):
    (folder / "optimizer.pt").write_bytes(b"state")
    (folder / "README.md").write_text("---\nlicense: mit\n---\nMine: load_model('OWNER/NAME')\n")
    upload_checkpoint(folder, "rooms", token=hub.token, commit_message="Second try", branch="try")
    files = hub.repos["me/rooms"]["try"]
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert files["README.md"].decode() == "---\nlicense: mit\n---\nMine: load_model('me/rooms')\n"
    assert hub.bodies[-1]["summary"] == "Second try"
    assert hub.repos["me/rooms"]["main"] == {}


def test_a_pull_request_s_address_is_given(hub, folder):
    url = upload_checkpoint(folder, "me/rooms", token=hub.token, create_pr=True)
    assert url == f"{hub.address}/me/rooms/discussions/1"


def test_a_checkpoint_without_a_card_is_uploaded(hub, folder):
    (folder / "README.md").unlink()
    upload_checkpoint(folder, "me/rooms", token=hub.token)
    assert sorted(hub.repos["me/rooms"]["main"]) == ["config.json", "model.safetensors"]


def test_weights_and_config_are_fetched_once_and_nothing_else(hub, pushed, cache):
    for _ in range(2):
        UNetNormals.from_pretrained(pushed, cache_dir=cache)
    downloads = [path.rpartition("/")[2] for method, path in hub.requests if method == "GET" and "/resolve/" in path]
    assert sorted(downloads) == ["config.json", "model.safetensors"]


def test_a_downloaded_model_needs_no_network(hub, pushed, cache):
    first = load_model(pushed, cache_dir=cache)
    hub.requests.clear()
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(load_model(pushed, cache_dir=cache, local_files_only=True)(images), first(images))
    assert hub.requests == []
    hub.broken = True
    assert torch.equal(load_model(pushed, cache_dir=cache)(images), first(images))


def test_a_revision_has_its_own_weights(hub, pushed, cache):
    before = hub.commit(hub.repos[pushed]["main"])
    hub.repos[pushed]["old"] = dict(hub.repos[pushed]["main"])
    newer = unet()
    newer.push_to_hub(pushed, token=hub.token)
    old, new = (load_model(pushed, cache_dir=cache, revision=revision) for revision in ("old", None))
    assert torch.equal(new.head.weight, newer.head.weight)
    assert not torch.equal(old.head.weight, newer.head.weight)
    assert torch.equal(load_model(pushed, cache_dir=cache, revision=before).head.weight, old.head.weight)


def test_a_private_model_is_loaded_with_a_token(hub, pushed, cache):
    hub.private.add(pushed)
    with pytest.raises(FileNotFoundError, match=r"me/rooms: there is no such folder here.*private one.*hf auth login"):
        load_model(pushed, cache_dir=cache)
    assert isinstance(load_model(pushed, cache_dir=cache, token=hub.token), UNetNormals)


def test_commands_take_a_name_on_the_hub(hub, pushed, cache, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    with pytest.raises(SystemExit, match="0"):
        main(["info", pushed])
    assert "UNetNormals" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="1"):
        main(["info", "me/cats"])
    assert capsys.readouterr().err.startswith(
        "normalkit: me/cats: there is no such folder here, and the Hub has no such"
    )


def test_a_folder_comes_before_the_hub(hub, folder, monkeypatch):
    monkeypatch.chdir(folder.parent.parent)
    assert isinstance(load_model(f"{folder.parent.name}/best"), UNetNormals)
    # What a crash left is a folder too.
    folder.rename(folder.with_name("best.old"))
    assert isinstance(load_model(f"{folder.parent.name}/best"), UNetNormals)
    assert hub.requests == []


@pytest.mark.parametrize("source", ["runs/2026/best", "best", "./best", "../best", "/runs/best", "runs/", "~/best"])
def test_only_owner_and_name_ask_the_hub(hub, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no such folder$"):
        load_model(source)
    assert hub.requests == []


def test_a_path_never_asks_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"runs/best: there is no such folder$"):
        load_model(Path("runs/best"))
    assert hub.requests == []


def test_what_the_hub_lacks_is_named_with_the_mend(hub, pushed, cache):
    with pytest.raises(FileNotFoundError, match="me/cats: there is no such folder here, and the Hub has no such model"):
        load_model("me/cats", cache_dir=cache)
    with pytest.raises(FileNotFoundError, match=r"me/rooms: .*no revision='v9'; give a branch, tag or commit"):
        load_model(pushed, cache_dir=cache, revision="v9")
    with pytest.raises(FileNotFoundError, match=r"me/rooms: .*downloaded before; leave out local_files_only"):
        load_model(pushed, cache_dir=cache, local_files_only=True)
    del hub.repos[pushed]["main"]["model.safetensors"]
    with pytest.raises(FileNotFoundError, match=r"me/rooms: the model on the Hub has no model\.safetensors, so"):
        load_model(pushed, cache_dir=cache)
    hub.broken = True
    with pytest.raises(OSError, match=r"me/cats: .*could be downloaded \(.*503.*\): check the path, or the network"):
        load_model("me/cats", cache_dir=cache)


def test_a_model_of_another_class_is_refused_by_its_name_on_the_hub(hub, pushed, cache):
    with pytest.raises(ValueError, match="me/rooms: holds a UNetNormals, not a BilinearNormals"):
        BilinearNormals.from_pretrained(pushed, cache_dir=cache)


def test_a_folder_has_no_revision(folder):
    with pytest.raises(ValueError, match=r"revision='main': .*best is a local folder, which has none; leave it out"):
        load_model(folder, revision="main")


def test_who_may_not_write_is_told(hub, folder):
    with pytest.raises(PermissionError, match=r"repo_id='me/rooms': .*401.*hf auth login"):
        upload_checkpoint(folder, "me/rooms", token="hf_wrong")
    assert hub.repos == {}
    hub.broken = True
    with pytest.raises(OSError, match=r"repo_id='me/rooms': could not be uploaded \(.*503"):
        upload_checkpoint(folder, "me/rooms", token=hub.token)


def test_what_does_not_load_is_not_uploaded(hub, folder):
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        upload_checkpoint(folder, "me/rooms", token=hub.token)
    with pytest.raises(ValueError, match="a/b/c"):
        unet().push_to_hub("a/b/c", token=hub.token)
    assert hub.requests == []


@pytest.mark.parametrize(
    "build",
    [
        unet,
        lambda: BilinearNormals("test_resnet", pretrained=False, channels=(8,)),
        lambda: SMPNormals("FPN", "tu-test_resnet", pretrained=False),
        BaseNet,
    ],
)
def test_loading_opens_no_connection(build, tmp_path, monkeypatch):
    build().save_pretrained(tmp_path / "best")

    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    ImageModel.from_pretrained(tmp_path / "best")


# the card


def card(folder):
    front, text = re.fullmatch(r"---\n(.*?)\n---\n(.*)", (folder / "README.md").read_text(), re.DOTALL).groups()
    return yaml.safe_load(front), text


def test_the_card_has_the_axes_and_the_figures(folder):
    front, text = card(folder)
    assert front["library_name"] == "normalkit"
    assert "surface-normals" in front["tags"]
    assert "`OPENCV`: x right, y down, z forward" in text
    assert "Data: rooms." in text
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", text, re.MULTILINE))
    assert rows["mean angular error (degrees)"] == "17.58"
    assert rows["pixels within 11.25 degrees (%)"] == "50.82"
    assert rows["loss"] == "0.1475"
    assert rows["encoder"] == "test_resnet"
    assert rows["skips"] == "[2]"


def test_a_classifier_s_card_has_no_axes(tmp_path):
    BaseNet().save_pretrained(tmp_path / "best", metadata={"metrics": {"accuracy": 72.63}})
    front, text = card(tmp_path / "best")
    assert front["pipeline_tag"] == "image-classification"
    assert "| accuracy (%) | 72.63 |" in text
    assert "Axes" not in text


def test_metadata_of_any_text_stay_in_their_cell(tmp_path):
    metrics = {"mean": float("nan"), "a|b\n<c>": 1}
    unet().save_pretrained(tmp_path / "best", metadata={"data": "x\n# y", "metrics": metrics})
    text = card(tmp_path / "best")[1]
    assert "| mean angular error (degrees) | - |" in text
    assert "| a\\|b &lt;c> | 1 |" in text
    assert "Data: x # y." in text


@pytest.mark.parametrize("metadata", [None, {"metrics": None}, {"metrics": 5, "data": {"train": "rooms"}}])
def test_a_card_without_figures_says_so(metadata, tmp_path):
    unet().save_pretrained(tmp_path / "best", metadata=metadata)
    assert "None were given" in card(tmp_path / "best")[1]
    assert json.loads((tmp_path / "best" / "config.json").read_text())["model"] == "UNetNormals"


def test_the_card_s_snippet_runs(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (snippet,) = re.findall(r"```python\n(.*?)```", card(folder)[1], re.DOTALL)
    Image.new("RGB", (20, 10)).save("photo.jpg")
    names = {}
    exec(snippet.replace("OWNER/NAME", "best"), names)
    assert names["normals"].shape == (3, 10, 20)
