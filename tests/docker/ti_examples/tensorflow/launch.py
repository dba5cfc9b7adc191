from ymir_exc.ti.tensorflow import TensorFlow

estimator = TensorFlow(
    entry_point="train.py",
    source_dir="src",
    role="TIONE_QCSRole",
    train_instance_count=2,
    train_instance_type="local",
    py_version="py3",
    script_mode=True,
    framework_version="2.0.0",
    image_name="my-tensorflow",
    hyperparameters={"steps": 100},
)
estimator.fit({"train": "data", "test": "file://data/numbers.txt"})
print(estimator.model_data)
