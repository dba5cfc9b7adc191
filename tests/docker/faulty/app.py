"""An executor in plain Python, with the one fault that the environment variable FAULT names."""
import json
import os
import signal
import socket
import struct
import sys
import time

import yaml

FAULT = os.environ.get("FAULT", "good")


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def write(path, data):
    """Through a temporary file, so that a reader sees the old content or the new."""
    with open(f"{path}.tmp", "wb") as f:
        f.write(data)
    os.chmod(f"{path}.tmp", 0o666)    # the platform writes it anew
    os.replace(f"{path}.tmp", path)


def tell(percent, state=2, code=0, reason=""):
    write("/out/monitor.txt", f"{config['task_id']}\t{time.time():.6f}\t{percent:.2f}\t{state}\t{code}\n{reason}".encode())


def fail(code, reason):
    try:
        tell(0.0, 4, code, reason)
    finally:
        print(f"{code}: {reason}", flush=True)
        sys.exit(1)


def stop(*_):
    fail(160004, "stopped by SIGTERM")


def epochs_of():
    return config["epochs"] if FAULT == "strings" else int(config["epochs"])


def train():
    objects = [0] * len(config["class_names"])
    for line in read("/in/train-index.tsv").splitlines():
        image, annotation = line.split("\t")
        if FAULT == "odd-folder" and os.system(f"test -r {os.path.realpath(image)} 2>/dev/null"):
            fail(300003, f"{os.path.realpath(image)} cannot be read")
        for row in read(annotation).splitlines():
            objects[int(row.split(",")[0])] += 1
    if FAULT == "unseen-class":
        print("weights of the classes:", [1 / count for count in objects])
    if FAULT == "no-network":
        socket.create_connection(("127.0.0.1" if "eth0" in os.listdir("/sys/class/net") else "192.0.2.1", 9), 3)
    if FAULT == "no-home":
        os.makedirs(os.path.expanduser("~/.cache/weights"))
    epochs = epochs_of()
    stages = {}
    for epoch in range(1, epochs + 1):
        time.sleep(0.1)
        tell(epoch / epochs)
        if epoch % 4 == 0 or epoch == epochs:
            save(stages, f"epoch_{epoch}", epoch / (epochs + 1))


def save(stages, name, score):
    os.makedirs(f"/out/models/{name}", exist_ok=True)
    weights = bytes(256 << 10)
    stages[name] = {"stage_name": name, "files": ["weights.bin"], "timestamp": int(time.time()),
                    "mAP": score * 100 if FAULT == "percent" else score}
    result = yaml.safe_dump({"model_stages": stages, "best_stage_name": name}).encode()
    if FAULT == "full-disk":
        try:
            write(f"/out/models/{name}/weights.bin", weights)
        except OSError:
            pass
        with open("/out/models/result.yaml", "wb") as f:
            f.write(result[: len(result) // 2])
        return
    write(f"/out/models/{name}/weights.bin", weights)
    if FAULT == "kill":
        with open("/out/models/result.yaml", "wb", buffering=0) as f:
            f.write(result[: len(result) // 2])
            time.sleep(3)
            f.write(result[len(result) // 2:])
        return
    write("/out/models/result.yaml", result)
    if FAULT == "stop":
        time.sleep(30)


def is_image(path):
    with open(path, "rb") as f:
        head = f.read(8)
    if FAULT == "broken-image" and head[:4] not in (b"\xff\xd8\xff\xe0", b"\x89PNG"):
        struct.unpack(">II", head[:5])
    return head[:2] == b"\xff\xd8" or head[:4] == b"\x89PNG"


def mine_and_infer():
    threshold = config["threshold"] if FAULT == "falsy-missing" else config.get("threshold", 0.0)
    assert all(os.path.isfile(path) for path in config["model_params_path"])
    text = read("/in/candidate-index.tsv")
    paths = [line.split()[0] for line in text.splitlines()] if FAULT == "odd-names" else text.splitlines()
    if FAULT == "no-candidates":
        print("seconds an image:", 1 / len(paths))
    if not paths:
        fail(300002, "the candidate list is empty")
    scores, found = {}, {}
    for path in paths:
        good = is_image(path)
        scores[path] = (sum(path.encode()) % 1000) / 1000 if good else 0.0
        box = {"class_name": config["class_names"][0], "score": 0.5, "box": {"x": 1, "y": 2, "w": 30, "h": 20}}
        found[os.path.basename(path)] = {"boxes": [box] if good and scores[path] >= threshold else []}
        time.sleep(0.02)
    if config["run_mining"]:
        ranked = sorted(scores.items(), key=lambda pair: -pair[1])
        write("/out/result.tsv", "".join(f"{path}\t{score}\n" for path, score in ranked).encode())
    if config["run_infer"]:
        write("/out/infer-result.json", json.dumps({"detection": found}).encode())


config = yaml.safe_load(read("/in/config.yaml"))
env = yaml.safe_load(read("/in/env.yaml"))
signal.signal(signal.SIGTERM, signal.SIG_IGN if FAULT == "stop" else stop)
tell(0.0)
if str(config["gpu_id"]) and not os.path.exists("/dev/nvidia0") and FAULT != "no-gpu":
    fail(300102, f"gpu_id is {config['gpu_id']!r}, and there is no GPU")
try:
    train() if env["run_training"] else mine_and_infer()
except OSError as error:
    fail(160004, str(error))
tell(1.0)
