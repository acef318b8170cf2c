"""Data sets as tar files: written and read back, by this library and by webdataset; and shards that are not right."""

import io
import json
import shutil
import tarfile
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import numpy as np
import pytest
import torch
from numbered import HEIGHT, WIDTH, Numbered
from PIL import Image
from torch.utils.data import ConcatDataset, Subset

from normalkit import SyntheticRooms
from normalkit.codec import write_normals
from normalkit.data import NormalFolder, ShardedNormals, open_dataset, write_shards
from normalkit.data.sample import make_sample
from normalkit.data.shards import Manifest
from normalkit.geometry import Convention, angular_error

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


def write(dataset, out, **options):
    return write_shards(dataset, out, progress=False, **{"samples_per_shard": 5, **options})


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        same = value == other[key] if key == "name" else torch.equal(value.nan_to_num(-1), other[key].nan_to_num(-1))
        assert same, key


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Shards of 23 samples, 5 in each but the last; to be copied by tests that change them."""
    folder = tmp_path_factory.mktemp("shards") / "numbered"
    write(Numbered(), folder, normals="npy")
    return folder


@pytest.fixture
def shards(numbered, tmp_path):
    return shutil.copytree(numbered, tmp_path / "shards")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """JPEG pictures with labels of 8 bits in the axes of DSINE, some of whose pixels a mask file takes out."""
    root = tmp_path_factory.mktemp("pairs")
    draw = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(draw.integers(0, 256, (16, 24, 3), np.uint8)).save(root / f"{name}_img.jpg")
        normals = torch.from_numpy(draw.normal(size=(3, 16, 24))) - torch.tensor([0, 0, 3.0]).view(3, 1, 1)
        write_normals(root / f"{name}_normal.png", normals, convention=Convention.DSINE)
        Image.fromarray((draw.random((16, 24)) > 0.3).astype(np.uint8) * 255).save(root / f"{name}_mask.png")
    return root


def test_samples_come_back_as_they_were(numbered):
    back = ShardedNormals(numbered)
    assert len(back) == 23
    assert [shard.samples for shard in back.shards] == [5, 5, 5, 5, 3]
    for index in (0, 4, 5, 22, 7):
        ours, theirs = back[index], Numbered()[index]
        torch.testing.assert_close(ours.pop("normals"), theirs.pop("normals"), rtol=0, atol=1e-7)
        assert_same(ours, theirs)
    with pytest.raises(IndexError, match="index=23: there are 23 samples"):
        back[23]


def test_files_are_copied_with_their_convention(pairs, tmp_path):
    data = NormalFolder(pairs, images="*_img.jpg", masks="*_mask.png", convention=None)
    manifest = write(data, tmp_path / "out")
    assert manifest.convention == Convention.DSINE
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    for number, name in enumerate("abc"):
        assert files[f"{number:09d}.image.jpg"] == (pairs / f"{name}_img.jpg").read_bytes()
        assert files[f"{number:09d}.normals.png"] == (pairs / f"{name}_normal.png").read_bytes()
        assert json.loads(files[f"{number:09d}.json"]) == {"name": name, "convention": "DSINE", "intrinsics": None}
        assert_same(ShardedNormals(tmp_path / "out")[number], data[number])
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["validity"].startswith("a pixel is invalid")


def test_parts_and_chains_of_data_sets_know_their_files(pairs, tmp_path):
    data = NormalFolder(pairs, images="*_img.jpg", convention=None)
    write(ConcatDataset([Subset(data, [2, 0]), Subset(data, [1])]), tmp_path / "out")
    back = ShardedNormals(tmp_path / "out")
    assert [back[i]["name"] for i in range(3)] == ["c", "a", "b"]
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        assert tar.extractfile("000000002.image.jpg").read() == (pairs / "b_img.jpg").read_bytes()


def test_other_axes_are_converted_to_and_back(pairs, tmp_path):
    data = NormalFolder(pairs, images="*_img.jpg", convention=None)
    write(data, tmp_path / "out", convention="OPENGL")
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        raw = tar.extractfile("000000000.normals.png").read()
    assert b"normalkit:convention\0OPENGL" in raw
    back = ShardedNormals(tmp_path / "out", convention="OPENGL")[0]
    assert float(angular_error(back["normals"], data[0]["normals"], dim=0)[data[0]["mask"]].max()) < 0.002


@pytest.mark.parametrize(("kind", "degrees"), [("png", 0.39), ("png16", 0.0016), ("npy", 1e-4)])
def test_labels_are_kept_as_well_as_is_said(tmp_path, kind, degrees):
    rooms = SyntheticRooms(length=2, size=(24, 32), seed=0)
    write(rooms, tmp_path / "out", normals=kind)
    back = ShardedNormals(tmp_path / "out")[1]
    error = angular_error(back["normals"].double(), rooms[1]["normals"].double(), dim=0)
    assert torch.equal(back["mask"], rooms[1]["mask"])
    assert float(error[back["mask"]].max()) <= degrees


def test_images_of_more_than_8_bits_and_depth_are_kept(tmp_path):
    wall = torch.tensor([0.0, 0.0, -1.0]).view(3, 1, 1).expand(3, 2, 3)
    depth = torch.tensor([[[1.5, 0, 2], [3, 4, 0.1]]])
    mask = torch.ones(2, 3, dtype=torch.bool)
    sample = make_sample(torch.linspace(0, 1, 18).view(3, 2, 3), wall, mask, None, "a", depth=depth)
    write([sample], tmp_path / "out", normals="npy")
    assert_same(ShardedNormals(tmp_path / "out")[0], sample)


def test_samples_of_another_kind_are_refused(tmp_path):
    sample = Numbered()[0]
    with pytest.raises(TypeError, match=r"sample 'scene\.0/é' also has flow; shards hold what"):
        write([{**sample, "flow": sample["image"]}], tmp_path)
    del sample["mask"]
    with pytest.raises(TypeError, match=r"sample 'scene\.0/é' lacks mask; shards hold what"):
        write([sample], tmp_path)


def test_webdataset_reads_the_shards(numbered):
    webdataset = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted(numbered.glob("*.tar"))]
    found = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in found] == [f"{i:09d}" for i in range(23)]
    for i, sample in enumerate(found):
        assert json.loads(sample["json"])["name"] == Numbered()[i]["name"]
        pixels = np.array(Image.open(io.BytesIO(sample["image.png"])))
        np.testing.assert_array_equal(pixels.transpose(2, 0, 1), (Numbered()[i]["image"] * 255).round().numpy())
        assert np.load(io.BytesIO(sample["normals.npy"])).shape == (HEIGHT, WIDTH, 3)


# Writing


def test_writing_goes_on_where_it_was_broken_off(numbered, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(OSError, match="picture 12 cannot be read"):
        write(Numbered(fails_at=12), out, normals="npy")
    assert sorted(contents(out)) == [
        "manifest.json",
        "shard-000000.json",
        "shard-000000.tar",
        "shard-000001.json",
        "shard-000001.tar",
    ]
    with pytest.raises(ValueError, match="not all written; run the same `normalkit shard` again"):
        ShardedNormals(out)
    again = Numbered()
    write(again, out, normals="npy")
    assert sorted(set(again.asked)) == [0, *range(10, 23)]  # The first one tells that the data are the same.
    assert contents(out) == contents(numbered)
    idle = Numbered()
    write(idle, out, normals="npy")
    assert set(idle.asked) == {0}


def test_a_shard_without_its_index_is_written_again(numbered, shards):
    (shards / "shard-000003.tar").write_bytes(b"half")
    (shards / "shard-000003.json").unlink()
    write(Numbered(), shards, normals="npy")
    assert contents(shards) == contents(numbered)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (Numbered(22), {}, r"have samples=23, this writing 22; use the same data and options"),
        (Numbered(), {"samples_per_shard": 4}, "have samples_per_shard=5, this writing 4"),
        (Numbered(), {"convention": "DSINE"}, "have convention=OPENCV, this writing DSINE"),
        (Numbered(), {"normals": "png"}, "have normals='npy', this writing 'png'"),
        (Subset(Numbered(24), range(1, 24)), {}, "have first='scene.0/é', this writing 'scene.1/é'"),
    ],
)
def test_shards_of_something_else_are_left_alone(shards, numbered, data, options, message):
    with pytest.raises(ValueError, match=message):
        write(data, shards, **{"normals": "npy", **options})
    assert contents(shards) == contents(numbered)


def test_tar_files_of_others_are_left_alone(tmp_path):
    (tmp_path / "backup.tar").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"holds \.tar files, but no manifest\.json; choose an empty folder"):
        write(Numbered(), tmp_path)
    assert contents(tmp_path) == {"backup.tar": b"mine"}


def test_parts_make_the_same_shards(numbered, tmp_path):
    first = write(Numbered(), tmp_path, normals="npy", part=(0, 2))
    assert first.shards is None
    assert len(list(tmp_path.glob("*.tar"))) == 3
    write(Numbered(), tmp_path, normals="npy", part=(1, 2))
    assert contents(tmp_path) == contents(numbered)


def test_workers_make_the_same_shards(numbered, tmp_path):
    write(Numbered(), tmp_path, normals="npy", workers=2)
    assert contents(tmp_path) == contents(numbered)


def test_a_drawn_order_has_every_sample(tmp_path):
    write(Numbered(), tmp_path, shuffle=3)
    back = ShardedNormals(tmp_path)
    names = [back[i]["name"] for i in range(23)]
    assert names != sorted(names, key=lambda name: int(name[6:-2]))
    assert sorted(names) == sorted(Numbered()[i]["name"] for i in range(23))
    assert back.manifest.shuffle == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples_per_shard": 0}, "samples_per_shard=0: wanted at least 1"),
        ({"normals": "jpg"}, "normals='jpg': wanted 'png', 'png16' or 'npy'"),
        ({"part": (2, 2)}, r"part=\(2, 2\): wanted \(i, n\) with i from 0 to n - 1"),
        ({"convention": "left"}, "left"),
    ],
)
def test_wrong_arguments(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write(Numbered(), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_no_samples(tmp_path):
    with pytest.raises(ValueError, match="dataset is empty"):
        write(Numbered(0), tmp_path)


# Shards that are not right


def edit_json(path, **changes):
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, **changes}))


def repack(folder, change):
    """Change the files of sample 0 in the first shard, and let index and manifest say that so it was written."""
    path, index = folder / "shard-000000.tar", folder / "shard-000000.json"
    offsets = json.loads(index.read_text())["offsets"]
    data = path.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data[: offsets[1]])) as tar:
        files = change([(member, tar.extractfile(member).read()) for member in tar])
    buffer = io.BytesIO()
    for member, content in files:
        member.size = len(content)
        buffer.write(member.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512))
    record = buffer.getvalue()
    moved = len(record) - offsets[1]
    path.write_bytes(record + data[offsets[1] :])
    sums = json.loads(index.read_text())["crc32"]
    edit_json(index, offsets=[0] + [o + moved for o in offsets[1:]], crc32=[zlib.crc32(record), *sums[1:]])
    rows = json.loads((folder / "manifest.json").read_text())["shards"]
    edit_json(folder / "manifest.json", shards=[{**rows[0], "bytes": rows[0]["bytes"] + moved}, *rows[1:]])


def renamed(files, old, new):
    for member, _ in files:
        member.name = member.name.replace(old, new)
    return files


def with_link(files):
    link = tarfile.TarInfo("000000000.mask.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return [*files, (link, b"")]


def with_sparse(files):
    """A file of next to nothing that claims to be large when unpacked."""
    sparse = tarfile.TarInfo("000000000.mask.png")
    sparse.type = tarfile.GNUTYPE_SPARSE
    return [*files, (sparse, b"")]


def with_facts(files, **changes):
    return [
        (member, json.dumps(json.loads(data) | changes).encode() if member.name.endswith(".json") else data)
        for member, data in files
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: renamed(files, "000000000.image", "../../000000000.image"), r"holds '\.\./\.\./000000000.image"),
        (
            lambda files: renamed(files, "000000000.image", "/etc/x.image"),
            r"holds '/etc/x\.image\.png' where files call",
        ),
        (
            lambda files: renamed(files, "000000000", "000000001"),
            r"holds '000000001\.json' where files called 000000000\.",
        ),
        (with_sparse, r"holds '000000000\.mask\.png' where files called"),
        (with_link, r"holds '000000000\.mask\.png' where files called"),
        (lambda files: [*files, files[1]], r"holds '000000000\.image\.png' twice"),
        (lambda files: files[:2], r"a sample has \.image\.png, \.json; wanted one file \.normals\.png"),
        (lambda files: files[::2], r"a sample has \.json, \.normals\.npy; wanted one file \.image\.png"),
        (lambda files: files[1:], r"wanted one file \.json"),
        (lambda files: renamed(files, "image.png", "image.exe"), r"wanted one file \.image\.png"),
        (lambda files: [(m, data[:-20]) for m, data in files], r"000000000\.json: not what a shard says of a sample"),
        (lambda files: [*files[:2], (files[2][0], files[2][1][:150])], r"000000000\.normals\.npy: shape .*truncated"),
        (lambda files: [files[0], (files[1][0], b"no picture"), files[2]], r"000000000\.image\.png: not a .* file"),
        (
            lambda files: with_facts(files, convention="DSINE"),
            r"is DSINE, but manifest\.json says OPENCV: shards of two",
        ),
        (lambda files: with_facts(files, intrinsics=[[1, 2]]), r"intrinsics \[\[1, 2\]\]; wanted 3 x 3 numbers"),
        (lambda files: with_facts(files, intrinsics="wide"), "intrinsics 'wide'; wanted 3 x 3 numbers"),
    ],
)
def test_a_sample_that_is_not_one(shards, change, message):
    repack(shards, change)
    back = ShardedNormals(shards)
    with pytest.raises(ValueError, match=message) as caught:
        back[0]
    assert "shard-000000.tar" in str(caught.value)
    assert back[1]["name"] == Numbered()[1]["name"]
    assert not (shards.parent / "000000000.image.png").exists()


def test_a_truncated_shard(shards):
    path = shards / "shard-000002.tar"
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ValueError, match=r"shard-000002\.tar: ends within a sample, \d+ bytes in.*truncated: copy it"):
        ShardedNormals(shards)[14]
    assert ShardedNormals(shards)[10]["name"] == Numbered()[10]["name"]


def test_a_damaged_shard(shards):
    path = shards / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"shard-000001\.tar: sample 5 is not what was written \(another checksum\)"):
        ShardedNormals(shards)[5]


def test_shards_that_were_exchanged(shards):
    (shards / "shard-000001.tar").replace(shards / "shard-000000.tar")
    with pytest.raises(ValueError, match=r"shard-000000\.tar: sample 0 is not what was written"):
        ShardedNormals(shards)[0]


def test_missing_files(shards):
    (shards / "shard-000000.tar").unlink()
    (shards / "shard-000001.json").unlink()
    back = ShardedNormals(shards)
    with pytest.raises(FileNotFoundError, match=r"shard-000000\.tar: no such file; manifest\.json names it"):
        back[0]
    with pytest.raises(FileNotFoundError, match=r"shard-000001\.json: no such file"):
        back[5]
    (shards / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"manifest\.json: no such file; give the folder or address that"):
        ShardedNormals(shards)


ROWS = [{"file": f"shard-{i:06d}.tar", "samples": 5, "bytes": 9999} for i in range(4)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 24}, "says 24 samples, but its 5 shards have 23; copy the manifest again"),
        ({"samples": "23"}, "has '23' where a number from 1 to .* is wanted"),
        ({"samples": True}, "has True where a number"),
        ({"samples": 10**30}, "where a number from 1 to"),
        ({"convention": "LEFT"}, "LEFT"),
        ({"version": 2}, "has format 'normalkit shards', version 2; wanted 'normalkit shards', version 1"),
        ({"format": "tfrecord"}, "has format 'tfrecord'"),
        (
            {"shards": [*ROWS, {"file": "../../secret.tar", "samples": 3, "bytes": 9}]},
            r"names the shard '\.\./\.\./secret",
        ),
        ({"shards": [*ROWS, {"file": "/etc/x.tar", "samples": 3, "bytes": 9}]}, "names the shard '/etc/x.tar'"),
        ({"shards": [*ROWS, {"file": "pipe:rm x.tar", "samples": 3, "bytes": 9}]}, "names the shard 'pipe:rm x.tar'"),
        ({"shards": [*ROWS, {**ROWS[0], "samples": 3}]}, "names a shard twice"),
        ({"shards": [*ROWS, {"file": "shard-000004.tar", "samples": -3, "bytes": 9}]}, "has -3 where a number"),
        ({"shards": 5}, "copy the manifest again, or write the shards anew"),
    ],
)
def test_a_manifest_that_disagrees(shards, changes, message):
    edit_json(shards / "manifest.json", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        ShardedNormals(shards)
    assert str(shards / "manifest.json") in str(caught.value)


@pytest.mark.parametrize("text", ["", "{}", "[]", "not json", "\x00", "[" * 100_000])
def test_no_manifest_at_all(shards, text):
    (shards / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="not the manifest of shards"):
        ShardedNormals(shards)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offsets": [0, 9], "crc32": [1]}, r"has 1 samples, but manifest\.json says that shard-000000\.tar has 5"),
        ({"offsets": [0, 512, 1024, 1024, 2048, 4096]}, "its offsets do not fit the"),
        ({"offsets": [0, 512, 1024, 1536, 2048, 10**12]}, "its offsets do not fit the"),
        ({"offsets": [-512, 512, 1024, 1536, 2048, 4096]}, "its offsets do not fit the"),
        ({"offsets": "many"}, "not the index of a shard"),
        ({"crc32": [2**70] * 5}, "not the index of a shard"),
    ],
)
def test_an_index_that_disagrees(shards, changes, message):
    edit_json(shards / "shard-000000.json", **changes)
    with pytest.raises(ValueError, match=message):
        ShardedNormals(shards)[0]


def test_a_sample_that_claims_a_terabyte(shards):
    """Of holes, so that the shard is as long as the manifest says."""
    path, index = shards / "shard-000000.tar", shards / "shard-000000.json"
    with open(path, "r+b") as file:
        file.truncate(2**40)
    rows = json.loads((shards / "manifest.json").read_text())["shards"]
    edit_json(shards / "manifest.json", shards=[{**rows[0], "bytes": 2**40}, *rows[1:]])
    edit_json(index, offsets=[*json.loads(index.read_text())["offsets"][:-1], 2**40])
    with pytest.raises(ValueError, match=r"shard-000000\.json: has a sample of 1,099,5\S+ bytes; wanted at most"):
        ShardedNormals(shards)[4]


@pytest.mark.parametrize("name", ["manifest.json", "shard-000000.json", "shard-000000.tar"])
def test_a_link_that_leads_out_of_the_folder(shards, tmp_path, name):
    (shards / name).rename(tmp_path / name)
    (shards / name).symlink_to(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}: a link that leads out of"):
        ShardedNormals(shards)[0]


def test_a_link_to_the_folder_and_links_within_it_are_followed(shards, tmp_path):
    (shards / "shard-000000.tar").rename(shards / "real.tar")
    (shards / "shard-000000.tar").symlink_to("real.tar")
    (tmp_path / "link").symlink_to(shards)
    assert_same(ShardedNormals(tmp_path / "link")[0], Numbered()[0])


def test_another_convention_than_was_expected(shards):
    assert ShardedNormals(shards, convention="OPENCV").manifest.convention == Convention.OPENCV
    with pytest.raises(ValueError, match=r"the labels are OPENCV, but convention=DSINE; leave the argument out"):
        ShardedNormals(shards, convention=Convention.DSINE)


def test_a_png_label_that_states_another_convention(tmp_path):
    write(Numbered(), tmp_path)

    def restate(files):
        chunk, other = b"tEXtnormalkit:convention\0OPENCV", b"tEXtnormalkit:convention\0OPENGL"
        data = files[2][1]
        at = data.index(chunk)
        fixed = data[:at] + other + zlib.crc32(other).to_bytes(4, "big") + data[at + len(chunk) + 4 :]
        return [*files[:2], (files[2][0], fixed)]

    repack(tmp_path, restate)
    with pytest.raises(ValueError, match="the file says that its convention is OPENGL, but convention=OPENCV"):
        ShardedNormals(tmp_path)[0]


# Addresses


def test_object_storage_in_memory(numbered):
    storage = fsspec.filesystem("memory")
    for path in numbered.iterdir():
        storage.pipe_file(f"/bucket/rooms/{path.name}", path.read_bytes())
    back = open_dataset("memory://bucket/rooms/")
    assert_same(back[12], ShardedNormals(numbered)[12])
    cached = ShardedNormals("simplecache::memory://bucket/rooms")
    assert_same(cached[12], back[12])
    with pytest.raises(FileNotFoundError, match=r"memory://bucket/none/manifest\.json: no such file"):
        ShardedNormals("memory://bucket/none")
    with pytest.raises(ValueError, match="nosuch"):
        open_dataset("nosuch://bucket")


def test_a_server_is_asked_for_the_bytes_of_the_samples_alone(numbered):
    pytest.importorskip("aiohttp")
    asked = []

    class Storage(BaseHTTPRequestHandler):
        def do_GET(self):
            data = (numbered / self.path.rpartition("/")[2]).read_bytes()
            wanted = self.headers.get("Range")
            if wanted:
                first, last = wanted.removeprefix("bytes=").split("-")
                data = data[int(first) : int(last) + 1]
            asked.append((self.path, len(data)))
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *words):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Storage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        back = ShardedNormals(f"http://127.0.0.1:{server.server_port}/rooms")
        sample = back[7]
        records = list(back.records(range(10, 20)))
        server.shutdown()
    assert_same(sample, ShardedNormals(numbered)[7])
    index = json.loads((numbered / "shard-000001.json").read_text())["offsets"]
    tars = [size for path, size in asked if path.endswith(".tar")]
    assert tars[0] == index[3] - index[2]
    assert len(tars) == 3  # One sample; then two shards, each at once.
    assert sum(tars[1:]) == sum(map(len, records))


def test_shards_are_opened_without_a_layout(numbered, tmp_path):
    assert isinstance(open_dataset(numbered), ShardedNormals)
    with pytest.raises(ValueError, match=r"split='test': .* is shards, which are of one split; leave it out"):
        open_dataset(numbered, split="test")
    assert Manifest.from_json((numbered / "manifest.json").read_bytes(), "m").samples == 23
