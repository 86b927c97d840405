#!/usr/bin/env python3
"""Makes a large workspace from a small one: links every shard many times, each time with a receipt of its own.

    many_frames.py SMALL_WORKSPACE STAGE BIG_WORKSPACE FRAMES

The frames repeat, but the numbers of shards, receipts, memory maps and windows are those of a real dataset of this size. The links take
no space on the disk.
"""

import json
import os
import sys
from pathlib import Path


def main(small, stage, big, frames):
    manifest = json.loads(sorted((small / stage / "manifests").glob("*.json"))[-1].read_text())
    receipts = [json.loads((small / stage / "receipts" / f"{key}.json").read_text()) for key in manifest["receipts"]]
    keys, count, copy = [], 0, 0
    (big / stage / "receipts").mkdir(parents=True)
    (big / stage / "manifests").mkdir()
    while count < frames:
        for receipt in receipts:
            key = receipt["key"] if copy == 0 else f"{copy:08x}{receipt['key'][8:]}"
            files = []
            for file in receipt["files"]:
                path = file["path"].replace(receipt["key"], key)
                (big / path).parent.mkdir(parents=True)
                os.link(small / file["path"], big / path)
                files.append(file | {"path": path})
                count += file["rows"]
            (big / stage / "receipts" / f"{key}.json").write_text(json.dumps(receipt | {"key": key, "files": files}))
            keys.append(key)
        copy += 1
    (big / stage / "manifests" / "0000000001.json").write_text(json.dumps(manifest | {"version": 1, "parent": None, "receipts": keys}))
    print(f"{count} frames in {len(keys)} shards")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
