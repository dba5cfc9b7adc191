import argparse
import json
import os

arguments = argparse.ArgumentParser()
arguments.add_argument("--steps", type=int, default=1)
given = arguments.parse_args()

try:
    import tensorflow as tf
    version = tf.__version__
except ModuleNotFoundError:    # an image for trying the launch out needs no framework
    version = None
for channel in ("train", "test"):
    folder = os.environ.get(f"TM_CHANNEL_{channel.upper()}", f"/opt/ml/input/data/{channel}")
    print(f"{channel}: {sorted(os.listdir(folder))}", flush=True)
with open(os.path.join(os.environ.get("TM_MODEL_DIR", "/opt/ml/model"), "model.json"), "w") as f:
    json.dump({"steps": given.steps, "tensorflow": version}, f)
