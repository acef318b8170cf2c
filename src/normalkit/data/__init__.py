"""Data sets: one file each.

Those of normals return the same sample dict, see `normalkit.data.sample`; `LabeledImages` are images with classes.
"""

from __future__ import annotations

from normalkit.data.device import DeviceLoader, device_evaluation_loader, device_training_loader
from normalkit.data.folder import NormalFolder
from normalkit.data.labeled import LabeledImages, read_labeled_images
from normalkit.data.loader import evaluation_loader, training_loader
from normalkit.data.memory import InMemory
from normalkit.data.opening import open_dataset
from normalkit.data.published import PublishedNormals
from normalkit.data.reference import reference_rooms
from normalkit.data.rgbd import RGBDNormals
from normalkit.data.sharding import write_shards
from normalkit.data.shards import ShardedNormals
from normalkit.data.streaming import shard_evaluation_loader, shard_training_loader
from normalkit.data.synthetic import SyntheticRooms

__all__ = [
    "DeviceLoader",
    "InMemory",
    "LabeledImages",
    "NormalFolder",
    "PublishedNormals",
    "RGBDNormals",
    "ShardedNormals",
    "SyntheticRooms",
    "device_evaluation_loader",
    "device_training_loader",
    "evaluation_loader",
    "open_dataset",
    "read_labeled_images",
    "reference_rooms",
    "shard_evaluation_loader",
    "shard_training_loader",
    "training_loader",
    "write_shards",
]
