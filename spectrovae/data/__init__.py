"""From recordings, or sounds made by formula, to batches: manifests, splits, pipelines, FSDD, toy sets."""

from spectrovae.data.manifest import Manifest, Record
from spectrovae.data.pipeline import Recordings
from spectrovae.data.reopen import recordings_for
from spectrovae.data.scan import scan
from spectrovae.data.sources import Example

__all__ = ["Example", "Manifest", "Record", "Recordings", "recordings_for", "scan"]
