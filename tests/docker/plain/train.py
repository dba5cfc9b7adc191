"""A decision tree on a table, written for Tencent TI alone: arguments, TM_* variables, a model file."""
import argparse
import csv
import json
import os
import pickle

from sklearn.tree import DecisionTreeClassifier


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--max_leaf_nodes", type=int, default=None)
    parser.add_argument("--training", default=os.environ["TM_CHANNEL_TRAINING"])
    parser.add_argument("--model_dir", default=os.environ["TM_MODEL_DIR"])
    parser.add_argument("--output_dir", default=os.environ["TM_OUTPUT_DATA_DIR"])
    arguments = parser.parse_args()

    rows = []
    for name in sorted(os.listdir(arguments.training)):
        if name.endswith(".csv"):
            with open(os.path.join(arguments.training, name), newline="") as f:
                rows.extend(csv.reader(f))
    if not rows:
        raise ValueError("no table in the channel training")
    labels, features = [row[0] for row in rows], [[float(cell) for cell in row[1:]] for row in rows]

    tree = DecisionTreeClassifier(max_leaf_nodes=arguments.max_leaf_nodes).fit(features, labels)
    with open(os.path.join(arguments.model_dir, "model.pkl"), "wb") as f:
        pickle.dump(tree, f)
    with open(os.path.join(arguments.output_dir, "score.json"), "w") as f:
        json.dump({"accuracy": tree.score(features, labels), "leaves": int(tree.get_n_leaves())}, f)
    print("hosts", os.environ["TM_HOSTS"])


if __name__ == "__main__":
    main()
