"""Writes a small LeRobot dataset with two cameras, without LeRobot.

usage: lerobot_dataset.py ROOT VERSION EPISODES [FAULT]

Videos of an episode are encoded on their own and joined without encoding them again, as LeRobot
does; camera `top` has frames that depend on later ones. FAULT makes one thing wrong, or encodes a
file as `one_stream`, so that most episodes do not begin with a key frame. Beside each video,
NAME.rgb has its frames as ffmpeg decodes them: [frame, 64, 64, 3], u8.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SIDE, FPS = 64, 10
CAMERAS = {"observation.images.top": 2, "observation.images.wrist": 0}


def length(episode):
    return 11 + 3 * (episode % 4)


def pictures(episode, camera):
    """Returns a moving square on a gradient: [frame, height, width, 3]."""
    random = np.random.default_rng([episode, list(CAMERAS).index(camera)])
    y, x = np.mgrid[:SIDE, :SIDE]
    back = np.stack([x * 2, y * 2, x + y], -1) + random.integers(0, 60, 3)
    frames = np.repeat(back[None], length(episode), 0)
    at = random.integers(5, 50, 2)
    for frame in frames:
        at = (at + random.integers(-3, 4, 2)).clip(0, SIDE - 12)
        frame[at[0]:at[0] + 12, at[1]:at[1] + 12] = [250, 240, 30]
    return frames.clip(0, 255).astype(np.uint8)


def ffmpeg(*arguments, stdin=None):
    command = ["ffmpeg", "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, input=stdin, stdout=subprocess.PIPE, check=True).stdout


def encode(path, frames, b_frames, fps):
    ffmpeg("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{SIDE}x{SIDE}", "-r", fps, "-i", "-",
           "-c:v", "libx264", "-qp", 8, "-threads", 1, "-pix_fmt", "yuv420p", "-g", 6,
           "-bf", b_frames, path, stdin=frames.tobytes())


def join(path, parts):
    names = path + ".txt"
    with open(names, "w") as file:
        file.writelines(f"file '{os.path.abspath(part)}'\n" for part in parts)
    ffmpeg("-f", "concat", "-safe", 0, "-i", names, "-c", "copy", path)
    for part in [names, *parts]:
        os.remove(part)


def save(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def rows(episode, first, fault):
    n = length(episode)
    random = np.random.default_rng([episode, 7])
    action = random.normal(size=(n, 2)).astype(np.float32)
    if fault == "nan_action" and episode == 1:
        action[3, 1] = np.nan
    frame = np.arange(n)
    if fault == "missing_row" and episode == 1:
        frame[4:] += 1
    columns = {
        "action": pa.FixedSizeListArray.from_arrays(pa.array(action.ravel()), 2),
        "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(action.ravel() * 2), 2),
        "next.reward": pa.array(frame / 2, pa.float32()),
        "timestamp": pa.array(frame / FPS, pa.float32()),
        "frame_index": pa.array(frame),
        "episode_index": pa.array(np.full(n, episode)),
        "index": pa.array(first + np.arange(n)),
        "task_index": pa.array(np.full(n, episode % 2)),
    }
    if fault == "undeclared":
        columns["effort"] = pa.array(np.zeros(n))
    return pa.table(columns)


def main(root, version, count, fault=None):
    joined = version == "v3.0"
    number = {"dtype": "float32", "shape": [2], "names": ["x", "y"]}
    features = {"action": number, "observation.state": number}
    for name, kind in [("next.reward", "float32"), ("timestamp", "float32"),
                       ("frame_index", "int64"), ("episode_index", "int64"), ("index", "int64"),
                       ("task_index", "int64")]:
        features[name] = {"dtype": kind, "shape": [1], "names": None}
    for camera in CAMERAS:
        features[camera] = {"dtype": "video", "shape": [SIDE, SIDE, 3],
                            "names": ["height", "width", "channels"], "info": {}}
    # Three episodes in a file; more would hide faults between files.
    file_of = lambda episode: episode // 3
    for camera, b_frames in CAMERAS.items():
        parts = {}
        for episode in range(count):
            path = f"{root}/videos/chunk-000/{camera}/episode_{episode:06d}.mp4"
            os.makedirs(os.path.dirname(path), exist_ok=True)
            rate = 2 * FPS if fault == "wrong_fps" and episode == 1 else FPS
            encode(path, pictures(episode, camera), b_frames, rate)
            parts.setdefault(file_of(episode) if joined else episode, []).append(path)
        for number, of_file in parts.items():
            path = of_file[0]
            if joined:
                path = f"{root}/videos/{camera}/chunk-000/file-{number:03d}.mp4"
                os.makedirs(os.path.dirname(path), exist_ok=True)
                if fault == "one_stream":
                    own = [e for e in range(count) if file_of(e) == number]
                    frames = np.concatenate([pictures(e, camera) for e in own])
                    encode(path, frames, b_frames, FPS)
                else:
                    join(path, of_file)
            with open(path[:-4] + ".rgb", "wb") as file:
                file.write(ffmpeg("-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"))
            if fault == "missing_video" and number == 0 and "top" in camera:
                os.remove(path)
            if fault == "cut_video" and number == 0 and "top" in camera:
                os.truncate(path, os.path.getsize(path) * 2 // 3)
    if joined:
        os.system(f"rm -r '{root}/videos/chunk-000'")
    tables, episodes, first, before = {}, [], 0, 0
    for episode in range(count):
        n = length(episode)
        table = rows(episode, first, fault)
        tables.setdefault(file_of(episode) if joined else episode, []).append(table)
        if episode % 3 == 0:
            before = 0
        row = {"episode_index": episode, "tasks": [["push", "pull"][episode % 2]], "length": n,
               "data/chunk_index": 0, "data/file_index": file_of(episode),
               "dataset_from_index": first, "dataset_to_index": first + n}
        for camera in CAMERAS:
            drift = 0.07 if fault == "drift" and episode == 1 else 0
            row[f"videos/{camera}/chunk_index"] = 0
            row[f"videos/{camera}/file_index"] = file_of(episode)
            row[f"videos/{camera}/from_timestamp"] = before / FPS + drift
            row[f"videos/{camera}/to_timestamp"] = (before + n) / FPS + drift
        if not (fault == "gap" and episode == 1):
            episodes.append(row)
        first, before = first + n, before + n
    name = "data/chunk-000/file-{:03d}.parquet" if joined else \
        "data/chunk-000/episode_{:06d}.parquet"
    os.makedirs(f"{root}/data/chunk-000", exist_ok=True)
    for number, of_file in tables.items():
        pq.write_table(pa.concat_tables(of_file), f"{root}/{name.format(number)}")
    if joined:
        os.makedirs(f"{root}/meta/episodes/chunk-000", exist_ok=True)
        pq.write_table(pa.Table.from_pylist(episodes),
                       f"{root}/meta/episodes/chunk-000/file-000.parquet")
    else:
        keys = ("episode_index", "tasks", "length")
        lines = [json.dumps({key: row[key] for key in keys}) + "\n" for row in episodes]
        save(f"{root}/meta/episodes.jsonl", "".join(lines))
    if joined:
        # As pandas writes an index of texts.
        index = [{"name": None, "field_name": None, "pandas_type": "unicode",
                  "numpy_type": "object", "metadata": {"encoding": "UTF-8"}}]
        of_column = lambda name, pandas, kind: {"name": name, "field_name": name,
            "pandas_type": pandas, "numpy_type": kind, "metadata": None}
        pandas = {"index_columns": ["task"], "column_indexes": index, "columns": [
            of_column("task_index", "int64", "int64"), of_column("task", "unicode", "object")],
            "creator": {"library": "pyarrow", "version": "20.0.0"}, "pandas_version": "2.2.3"}
        tasks = pa.table({"task_index": [0, 1], "task": ["push", "pull"]})
        tasks = tasks.replace_schema_metadata({"pandas": json.dumps(pandas)})
        pq.write_table(tasks, f"{root}/meta/tasks.parquet")
        everything = pa.concat_tables(table for of_file in tables.values() for table in of_file)
        stats = {}
        for name in everything.column_names:
            values = np.array(everything[name].to_pylist(), np.float64).reshape(first, -1)
            stats[name] = {stat: getattr(values, stat)(0).tolist()
                           for stat in ("min", "max", "mean", "std")} | {"count": [first]}
        save(f"{root}/meta/stats.json", json.dumps(stats))
    info = {
        "codebase_version": "v2.0" if fault == "version" else version, "robot_type": None,
        "total_episodes": count, "total_frames": first, "total_tasks": 2, "chunks_size": 1000,
        "fps": 0 if fault == "no_fps" else FPS, "features": features,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet" if joined else
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        if joined else
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    if fault == "lance":
        info["storage_format"] = "lance"
    if fault == "outside":
        info["video_path"] = "../{video_key}/{file_index}"
    save(f"{root}/meta/info.json", json.dumps(info))


main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
