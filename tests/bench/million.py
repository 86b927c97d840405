"""A plan and a run of a million listed videos of which a thousand are new: seconds, memory, and what plan and run record say.

    python tests/bench/million.py target/release/lapo [--videos 1000000] [--new 1000] [--per-shard 8]

The listing and the receipts of the old videos are made up, the latter after the receipt of a real run; the new ones are links to real ones,
which are hashed and decoded. Wants pyarrow.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import tempfile
import time

import pyarrow as pa
import pyarrow.parquet as pq

PIPELINE = """
name: million
workspace: ws
stages:
  frames: {{ decode: {{ {source}, size: 16, identity: etag, videos_per_shard: {per_shard} }} }}
"""


def write_receipts(folder, videos, per_shard):
    """Receipts of `videos` videos in shards of `per_shard`, as a run would have left them, and the manifest that has them all."""
    receipt = json.loads(next((folder / "receipts").glob("*.json")).read_text())
    keys = []
    for first in range(0, videos, per_shard):
        here = range(first, min(first + per_shard, videos))
        key = f"{first:032x}"
        keys.append(key)
        records = [dict(receipt["videos"][0], digest=f"{i:064x}", uri=uri(i), bytes=size(i), modified=etag(i)) for i in here]
        path = f"frames/data/{key}/a/shard.arrow"
        fields = dict(receipt["fields"], videos=[record["digest"] for record in records])
        made = dict(receipt, key=key, attempt="a", fields=fields, videos=records, files=[dict(receipt["files"][0], path=path)])
        (folder / "receipts" / f"{key}.json").write_text(json.dumps(made, indent=2) + "\n")
    for old in (folder / "receipts").glob(f"{receipt['key']}*"):
        old.unlink()
    manifest = json.loads((folder / "manifests/0000000001.json").read_text())
    (folder / "manifests/0000000001.json").write_text(json.dumps(dict(manifest, receipts=keys), indent=2))


def uri(i):
    return f"s3://bucket/crawl/part-{i // 10_000:05d}/clip-{i:07d}.mp4"


def size(i):
    return 1_000_000 + i


def etag(i):
    return f'"{i:032x}"'


def main():
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("lapo", type=pathlib.Path)
    asked.add_argument("--videos", type=int, default=1_000_000)
    asked.add_argument("--new", type=int, default=1_000)
    asked.add_argument("--per-shard", type=int, default=8)
    asked = asked.parse_args()
    lapo, data = asked.lapo.resolve(), pathlib.Path(__file__).parents[2] / "data/maze"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        video = next(data.glob("*.mp4"))
        (folder / "pipeline.yaml").write_text(PIPELINE.format(source=f"videos: ['{video}']", per_shard=asked.per_shard))
        subprocess.run([lapo, "run", "pipeline.yaml"], cwd=folder, check=True, capture_output=True)
        write_receipts(folder / "ws/frames", asked.videos - asked.new, asked.per_shard)
        rows = range(asked.videos)
        old, clips = asked.videos - asked.new, sorted(data.glob("*.mp4"))
        (folder / "clips").mkdir()
        for i in rows[old:]:
            (folder / "clips" / f"{i}.mp4").symlink_to(clips[i % len(clips)])
        uris = [uri(i) for i in rows[:old]] + [f"clips/{i}.mp4" for i in rows[old:]]
        listing = {"uri": uris, "bytes": [size(i) for i in rows], "etag": [etag(i) for i in rows]}
        pq.write_table(pa.table(listing), folder / "clips.parquet")
        (folder / "pipeline.yaml").write_text(PIPELINE.format(source="lists: ['clips.parquet']", per_shard=asked.per_shard))
        begun = time.monotonic()
        said = subprocess.run([lapo, "plan", "pipeline.yaml", "--format", "json"], cwd=folder, check=True, capture_output=True, text=True)
        seconds = time.monotonic() - begun
        kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        plan = json.loads(said.stdout)[0]
        print(f"{asked.videos} videos, {plan['new_videos']} new in {plan['new']} tasks, {plan['reused_videos']} re-used in {plan['reused']}")
        print(f"planned in {seconds:.1f} s, {kib / 2**20:.2f} GiB, {os.cpu_count()} cores")
        begun, before = time.monotonic(), set(folder.glob("ws/runs/*.json"))
        subprocess.run([lapo, "run", "pipeline.yaml"], cwd=folder, check=True, capture_output=True)
        seconds = time.monotonic() - begun
        kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        (record,) = set(folder.glob("ws/runs/*.json")) - before
        (stage,) = json.loads(record.read_text())["stages"]
        print(f"run in {seconds:.1f} s, {kib / 2**20:.2f} GiB; the run record says {stage['done']['videos']:.0f} new videos, {stage['rejects']} rejects")


if __name__ == "__main__":
    main()
